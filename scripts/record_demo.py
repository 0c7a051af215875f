#!/usr/bin/env python3
"""Records docs/images/demo.svg: icecore at work in a terminal of 80 columns.

    python3 scripts/record_demo.py            # runs the commands below and writes the picture
    python3 scripts/record_demo.py --check    # fails if the program prints something else than the picture shows

It needs python3, sqlite3 and icecore (ICECORE_BIN, else the first on PATH). The commands run in a temporary
directory, in a pseudo-terminal, so the picture has the colours that a user sees. Snapshot ids, sizes and times
differ from run to run: --check compares everything else.
"""

import html
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
from pathlib import Path

COLUMNS = 80
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "demo.svg"

# What the database holds before the recording starts.
SETUP = """
sqlite3 memory.db 'CREATE TABLE memory(id INTEGER PRIMARY KEY, text TEXT);
  WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)
  INSERT INTO memory(text) SELECT printf("note %d: ", i) || hex(zeroblob(i % 50)) FROM n'
"""

# Stands in the picture for the temporary directory.
PLACE = "/srv/app"

COMMANDS = [
    "icecore init",
    "icecore backup sqlite memory.db",
    "sqlite3 memory.db 'DELETE FROM memory WHERE id > 100'   # an accident",
    "icecore backup sqlite memory.db",
    "icecore restore latest memory.db=memory.db",
    "sqlite3 memory.db 'SELECT count(*) FROM memory'",
]

# Standard colours of SGR, as they look on the picture's background.
COLOURS = {31: "#ff7b72", 32: "#7ee787", 33: "#e3b341", 34: "#79c0ff", 35: "#d2a8ff", 36: "#76e3ea", 91: "#ff7b72", 92: "#7ee787", 93: "#e3b341"}
PLAIN, DIM, BACKGROUND = "#c9d1d9", "#8b949e", "#0d1117"


def run(command, directory, environment):
    """What a command prints in a terminal, with its escape sequences."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(directory)
        os.execvpe("bash", ["bash", "-c", f"stty cols {COLUMNS} rows 40; {command}"], environment)
    output = b""
    while True:
        ready, _, _ = select.select([terminal], [], [], 60)
        if not ready:
            sys.exit(f"{command}: no output for 60 s")
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux: the other side has been closed
            piece = b""
        if not piece:
            break
        output += piece
    os.waitpid(pid, 0)
    os.close(terminal)
    return output.decode()


def settled(text):
    """Lines as they stand when the command has ended: progress that was written over is gone."""
    lines = []
    for line in text.replace("\r\n", "\n").rstrip("\n").split("\n"):
        pieces = re.split(r"\r|\x1b\[[0-9]*[GK]", line)
        last = next((piece for piece in reversed(pieces) if piece.strip()), "")
        if last:
            lines.append(last)
    return lines


def spans(line):
    """(style, text) for each run of one style."""
    style, result = {}, []
    for piece in re.split(r"(\x1b\[[0-9;]*m)", line):
        if piece.startswith("\x1b["):
            for code in [int(code or 0) for code in piece[2:-1].split(";")]:
                if code == 0:
                    style = {}
                elif code == 1:
                    style = {**style, "font-weight": "bold"}
                elif code == 2:
                    style = {**style, "fill": DIM}
                elif code in COLOURS:
                    style = {**style, "fill": COLOURS[code]}
        elif piece:
            result.append((style, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", piece)))
    return result


def rows(line):
    """A line as a terminal shows it: broken at the last column."""
    result, room = [[]], COLUMNS
    for style, text in line:
        while len(text) > room:
            result[-1].append((style, text[:room]))
            result.append([])
            text, room = text[room:], COLUMNS
        result[-1].append((style, text))
        room -= len(text)
    return result


def record():
    """Lines of the picture: (is a command, spans)."""
    program = os.environ.get("ICECORE_BIN")
    lines = []
    with tempfile.TemporaryDirectory() as directory:
        environment = {
            "HOME": directory,
            "TERM": "xterm-256color",
            "TZ": "UTC",
            "LC_ALL": "C.UTF-8",
            "ICECORE_PASSWORD": "a passphrase",
            "PATH": os.environ["PATH"],
        }
        if program:
            os.mkdir(f"{directory}/bin")
            os.symlink(os.path.abspath(program), f"{directory}/bin/icecore")
            environment["PATH"] = f"{directory}/bin:{environment['PATH']}"
        subprocess.run(["bash", "-ec", SETUP], cwd=directory, env=environment, check=True)
        for command in COMMANDS:
            lines.append((True, [({"fill": DIM}, "$ "), ({"font-weight": "bold"}, command)]))
            printed = run(command, directory, environment).replace(directory, PLACE)
            lines += [(False, row) for line in settled(printed) for row in rows(spans(line))]
            lines.append((False, []))
    return lines[:-1]


def text_of(lines):
    return ["".join(text for _, text in parts) for _, parts in lines]


def picture(lines):
    """The lines as SVG. They appear one after the other; where nothing moves, all are there."""
    width, line_height, top = 8.4 * COLUMNS + 32, 19, 52
    height = top + line_height * len(lines) + 12
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img" aria-label="icecore at work in a terminal">',
        "<style>text{font:14px ui-monospace,Menlo,Consolas,monospace;white-space:pre}"
        "@media(prefers-reduced-motion:no-preference){.l{animation:a .01s both}@keyframes a{from{opacity:0}to{opacity:1}}}</style>",
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>',
    ]
    out += [f'<circle cx="{20 + 20 * index}" cy="20" r="6" fill="{colour}"/>' for index, colour in enumerate(("#ff5f56", "#ffbd2e", "#27c93f"))]
    seconds = 0.5
    for number, (is_command, parts) in enumerate(lines):
        seconds += 1.2 if is_command else 0.08
        y = top + line_height * number
        tspans = []
        for style, text in parts:
            attributes = "".join(f' {name}="{value}"' for name, value in style.items())
            tspans.append(f"<tspan{attributes}>{html.escape(text)}</tspan>")
        if tspans:
            out.append(f'<text class="l" style="animation-delay:{seconds:.2f}s" x="16" y="{y}" fill="{PLAIN}" xml:space="preserve">{"".join(tspans)}</text>')
        seconds += 0.8 if is_command else 0
    return "\n".join(out) + "\n</svg>\n"


def shown(svg):
    """The lines that a picture shows."""
    texts = re.findall(r"<text[^>]*>(.*?)</text>", svg)
    return [html.unescape(re.sub(r"<[^>]*>", "", text)) for text in texts]


def masked(lines):
    """What each command printed, without what differs from run to run: ids, numbers, and blanks and breaks of lines."""
    commands = []
    for line in lines:
        if line.startswith("$ ") or not commands:
            commands.append("")
        commands[-1] += line
    # What took how long: the longest part stands first, and short ones are left out.
    masks = [(r"\([^()]*derivation[^()]*\)", "(parts)"), (r"\b[0-9a-f]{12,64}\b", "ID"), (r"[0-9][0-9.,:TZ-]*", "N"), (r"\b(ms|s|min|B|KB|kB|MB|KiB|MiB)\b", "U"), (r" +", "")]
    for pattern, mask in masks:
        commands = [re.sub(pattern, mask, command) for command in commands]
    return commands


def main():
    lines = record()
    if sys.argv[1:] == ["--check"]:
        then, now = masked(shown(PICTURE.read_text())), masked(text_of(lines))
        if then != now:
            print("\n".join(f"picture: {old}\nnow:     {new}" for old, new in zip(then, now) if old != new))
            sys.exit(f"{PICTURE.name} shows something else than the program prints: run scripts/record_demo.py")
        return
    PICTURE.write_text(picture(lines))
    print("\n".join(text_of(lines)))


main()
