"""A plugin that does what the events say, one statement in each line of their content; nothing said is to accept.

    out TEXT        write a line, with the id of the event for ID
    err TEXT        write a line to standard error, with \\n for a line break in it
    fill N          write N bytes without a line break
    hold N          accept when N events are held, the last one first
    die N           leave with that status
    nothing         do not answer

Its own process id and then every line that it reads go to the file that is its argument.
"""

import json
import os
import sys
from typing import IO

held: list[str] = []


def say(text: str) -> None:
    """Write a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def accept(event_id: str) -> None:
    """Take an event."""
    say(json.dumps({"id": event_id, "action": "accept"}))


def obey(statement: str, event_id: str) -> None:
    """Do what an event says."""
    verb, _, rest = statement.partition(" ")
    match verb:
        case "out":
            say(rest.replace("ID", event_id))
        case "err":
            sys.stderr.write(rest.replace("\\n", "\n") + "\n")
            sys.stderr.flush()
        case "fill":
            sys.stdout.write("x" * int(rest))
            sys.stdout.flush()
        case "hold":
            held.append(event_id)
            if len(held) == int(rest):
                while held:
                    accept(held.pop())
        case "die":
            sys.exit(int(rest))
        case "nothing":
            pass
        case _:
            accept(event_id)


def main(record: IO[str]) -> None:
    """Serve until the input ends."""
    record.write(f"{os.getpid()}\n")
    record.flush()
    for line in sys.stdin:
        record.write(line)
        record.flush()
        event = json.loads(line)["event"]
        for statement in event["content"].split("\n"):
            obey(statement, event["id"])


if __name__ == "__main__":
    with open(sys.argv[1], "a", encoding="utf-8") as file:
        main(file)
