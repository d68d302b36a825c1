"""Start-up: whole processes, run in turn, against `import torch` and against doing nothing.

    python benchmarks/fill_start.py [--rounds 9] [--model M]

Aim: a warm `unmask fill` takes at most twice the time of `import torch`, `unmask --help` at most half of it.
"""

import argparse
import statistics
import subprocess
import sys
import time

TEXT = "The ___ sat on the ___."


def seconds(command: list[str]) -> float:
    """How long one process takes, from its start to its end."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model", help="a folder; else the built-in model")
    given = parser.parse_args()
    unmask = [sys.executable, "-m", "unmask.cli"]
    model = ["--model", given.model] if given.model else []
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        'python -c "import torch"': [sys.executable, "-c", "import torch"],
        "unmask --help": [*unmask, "--help"],
        "unmask fill --help": [*unmask, "fill", "--help"],
        f'unmask fill "{TEXT}" -n 5': [*unmask, "fill", TEXT, "-n", "5", *model],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(given.rounds + 1):  # the first warms the disk's cache and is not counted
        for name, command in commands.items():
            took = seconds(command)
            if number:
                times[name].append(took)
    torch = statistics.median(times['python -c "import torch"'])
    print(f"{'process':42} {'seconds':>8} {'range':>13} {'x import torch':>15}")
    for name, took in times.items():
        median = statistics.median(took)
        print(f"{name:42} {median:8.3f} {min(took):6.3f}-{max(took):.3f} {median / torch:15.2f}")


if __name__ == "__main__":
    main()
