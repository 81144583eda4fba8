"""Serves one ready file with `sendfile`, over and over: what a download is compared with where there is no nginx.

python -m bench.sendfile_server FILE PORT
"""

import os
import socket
import sys
from pathlib import Path


def serve(file: Path, port: int) -> None:
    """Answer every connection with the file, whatever it asks for; does not return."""
    length = file.stat().st_size
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode()
    with socket.create_server(("127.0.0.1", port)) as listener, file.open("rb") as opened:
        while True:
            connection, _ = listener.accept()
            with connection:
                if not connection.recv(65536):
                    continue
                connection.sendall(head)
                at = 0
                while at < length:
                    at += os.sendfile(connection.fileno(), opened.fileno(), at, length - at)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
