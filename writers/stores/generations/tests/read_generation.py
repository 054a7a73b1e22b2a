"""Reads one closed log generation and prints it as JSON. Written from docs/format-generations.md alone.

    python3 read_generation.py FILE

Ends with 1 and the reason on standard error if anything in the file is not as described.
"""
import hashlib
import json
import struct
import sys
import uuid


class Bad(Exception):
    pass


class Fields:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if count > len(self.data) - self.at:
            raise Bad(f"ends at {len(self.data)}")
        self.at += count
        return self.data[self.at - count:self.at]

    def numbers(self, layout):
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))


def need(condition, why):
    if not condition:
        raise Bad(why)


def read(data):
    f = Fields(data)
    need(f.take(8) == b"HOLDFLOG", "magic")
    version, length = f.numbers("II")
    need(version == 1, "version")
    need(104 <= length <= 1051752, "length of the header")
    chain = uuid.UUID(bytes=f.take(16))
    number, count, before, created = f.numbers("IIQQ")
    predecessor = f.take(32)
    need(number >= 1 and 1 <= count <= 256 and before < 2**64 - 1, "header")
    need((number == 1) == (predecessor == bytes(32)), "predecessor")
    need(number > 1 or before == 0, "commit before")
    databases = []
    for expected in range(count):
        index, page_size, path_length = f.numbers("III")
        need(index == expected and path_length <= 4096, "table of databases")
        need(page_size in [512 << shift for shift in range(8)], "page size")
        path = f.take(path_length)
        need(path.startswith(b"/") and b"\0" not in path, "path")
        databases.append({"path": path.decode("utf-8", "surrogateescape"), "page_size": page_size})
    need(f.at == length - 16, "length of the header")
    need(f.take(16) == hashlib.sha256(data[:length - 16]).digest()[:16], "checksum of the header")

    records, commit, time, counts = [], before, created, [0] * count
    while (tag := f.take(4)) == b"REC ":
        start = f.at - 4
        index, this_commit, this_time, pages_after, kind = f.numbers("IQQII")
        need(index < count and this_commit == commit + 1 and this_time >= time, "head of a record")
        need(pages_after >= 1 and kind in (1, 2), "head of a record")
        commit, time, counts[index], images = this_commit, this_time, pages_after, []
        while page := f.numbers("I")[0]:
            need(page <= pages_after, "page number")
            images.append([page, hashlib.sha256(f.take(databases[index]["page_size"])).hexdigest()])
        need(f.numbers("I")[0] == len(images), "number of pages")
        need(hashlib.sha256(data[start:f.at]).digest()[:16] == f.take(16), "checksum of a record")
        records.append({"database": index, "commit": commit, "time_ms": time, "page_count": pages_after,
                        "kind": kind, "pages": images})
    need(tag == b"END ", "tag")
    footer = f.numbers("IQQQQ")
    need(footer[:4] == (count, before + 1, commit, len(records)) and footer[4] >= time, "footer")
    need(list(f.numbers(f"{count}I")) == counts, "page counts")
    need(hashlib.sha256(data[:f.at]).digest() == f.take(32), "hash")
    need(f.at == len(data), "bytes behind the footer")
    return {"chain": str(chain), "number": number, "created_ms": created, "predecessor": predecessor.hex(),
            "databases": databases, "records": records, "sealed_ms": footer[4], "page_counts": counts,
            "sha256": hashlib.sha256(data).hexdigest()}


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        content = file.read()
    try:
        print(json.dumps(read(content)))
    except Bad as bad:
        sys.exit(f"{sys.argv[1]}: {bad}")
