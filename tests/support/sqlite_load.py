#!/usr/bin/env python3
"""One of several processes that write the same SQLite database in WAL mode.

    sqlite_load.py DATABASE make
    sqlite_load.py DATABASE NAME TRANSACTIONS
    sqlite_load.py DATABASE check PROCESSES TRANSACTIONS

It is made first: of two processes that turn WAL on at the same moment, SQLite tells one
at once that the database is locked, on any file system and whatever its timeout.
"""

import hashlib
import sqlite3
import sys


def connect(path):
    database = sqlite3.connect(path, timeout=60, isolation_level=None)
    mode = database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise SystemExit(f"sqlite: the database is in mode {mode}, not WAL")
    database.execute("PRAGMA synchronous=FULL")
    return database


def make(path):
    database = connect(path)
    database.execute("CREATE TABLE rows (writer TEXT, number INTEGER, content BLOB, sum TEXT)")
    database.close()


def write(path, name, transactions):
    database = connect(path)
    for number in range(transactions):
        content = hashlib.sha512(f"{name} {number}".encode()).digest() * (1 + number % 40)
        database.execute("BEGIN IMMEDIATE")
        database.execute(
            "INSERT INTO rows VALUES (?, ?, ?, ?)", (name, number, content, hashlib.sha256(content).hexdigest())
        )
        database.execute("COMMIT")
    database.close()


def check(path, processes, transactions):
    database = connect(path)
    verdict = database.execute("PRAGMA integrity_check").fetchone()[0]
    if verdict != "ok":
        raise SystemExit(f"sqlite: integrity_check: {verdict}")
    found = 0
    for content, checksum in database.execute("SELECT content, sum FROM rows"):
        if hashlib.sha256(content).hexdigest() != checksum:
            raise SystemExit("sqlite: a row has other content than was written")
        found += 1
    if found != processes * transactions:
        raise SystemExit(f"sqlite: {found} rows, {processes * transactions} were committed")


if __name__ == "__main__":
    if sys.argv[2] == "make":
        make(sys.argv[1])
    elif sys.argv[2] == "check":
        check(sys.argv[1], int(sys.argv[3]), int(sys.argv[4]))
    else:
        write(sys.argv[1], sys.argv[2], int(sys.argv[3]))
