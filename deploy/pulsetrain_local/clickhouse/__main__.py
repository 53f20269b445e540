"""`python -m pulsetrain_local.clickhouse`: runs the server until SIGTERM or SIGINT."""

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from pulsetrain_local.clickhouse.engine import EngineError
from pulsetrain_local.clickhouse.host import Login
from pulsetrain_local.clickhouse.server import HELD_IN_MEMORY, MOST_CONNECTIONS, Options, Server


def main() -> int:
    """Parses the arguments, serves, and returns the exit status: 0 after a signal, 1 where it could not start."""
    arguments = _parser().parse_args()
    logging.basicConfig(
        level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        password = _password(arguments.password_file)
        server = Server(
            Options(
                path=arguments.path.absolute(),
                port=arguments.port,
                http_port=arguments.http_port,
                user=arguments.user,
                password=password,
                readers=_readers(arguments.reader, arguments.reader_password_file),
                engine_memory=arguments.engine_memory_mib << 20 if arguments.engine_memory_mib else None,
                most_connections=arguments.max_connections,
                held_in_memory=arguments.held_in_memory_mib << 20,
            )
        )
    except (EngineError, OSError) as error:
        sys.stderr.write(f"The ClickHouse server cannot start: {error}\n")
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    if arguments.port_file is not None:
        _write_atomically(arguments.port_file, f"{server.port}\n")
    if arguments.http_port_file is not None:
        _write_atomically(arguments.http_port_file, f"{server.http_port}\n")
    sys.stdout.write(
        f"ClickHouse {server.engine_version} (chDB) listens on 127.0.0.1: port {server.port} speaks the native "
        f"protocol, and port {server.http_port} HTTP\n"
    )
    sys.stdout.flush()
    server.serve()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pulsetrain_local.clickhouse", description=main.__doc__)
    parser.add_argument("--path", type=Path, required=True, help="directory of the data; belongs to one process")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--port-file", type=Path, help="file that gets the port, once the server listens")
    parser.add_argument("--http-port", type=int, default=0, help="the same for HTTP; the default takes a free one")
    parser.add_argument("--http-port-file", type=Path, help="file that gets the port for HTTP")
    parser.add_argument("--user", required=True)
    parser.add_argument("--password-file", type=Path, required=True, help="file whose first line is the password")
    parser.add_argument("--reader", help="a second user, who only reads")
    parser.add_argument("--reader-password-file", type=Path, help="file whose first line is the reader's password")
    parser.add_argument("--engine-memory-mib", type=int, help="what queries may take; default: a quarter of it all")
    parser.add_argument("--max-connections", type=int, default=MOST_CONNECTIONS)
    parser.add_argument(
        "--held-in-memory-mib",
        type=int,
        default=HELD_IN_MEMORY >> 20,
        help="what of an INSERT is held in memory until its end; the rest goes to a file",
    )
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return parser


def _password(file: Path) -> str:
    return file.read_text(encoding="utf-8").rstrip("\r\n")


def _readers(user: str | None, file: Path | None) -> tuple[Login, ...]:
    return () if user is None or file is None else (Login(user, _password(file), reads_only=True),)


def _write_atomically(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


if __name__ == "__main__":
    sys.exit(main())
