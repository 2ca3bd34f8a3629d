"""
The peer: DBOS Transact (PyPI `dbos`), run by the Python of .cache/bench/dbos-venv, in a process of its own each time.

    run      workflows of three trivial durable steps, N in flight, for some seconds
    recover  N workflows, each killed inside its second step by whoever started us; then again, until all are done
    history  100 workflows, cloned to N by SQL; then one of them is read with its steps, over and over

One JSON object on stdout. DBOS runs arbitrary Python functions, which this project does not; what is compared is an
operation of three durable phases. It does not import this project, nor is it imported by it.
"""

# ruff: noqa: PLC0415 - what is imported is part of what is measured

import argparse
import json
import os
import statistics
import sys
import threading
import time


def launched(url):
    """The library, running on *url*: its module, and the workflow of three steps."""
    from dbos import DBOS

    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})

    @DBOS.step()
    def allocate(number):
        return {"cluster": number}

    @DBOS.step()
    def apply(number, marker):
        if marker:
            with open(marker, "a") as file:
                file.write(f"{number}\n")
            if os.environ.get("BENCH_HANG"):
                time.sleep(3600)
        return {"applied": number}

    @DBOS.step()
    def ready(number, marker):
        if marker:
            with open(f"{marker}.done", "a") as file:
                file.write(f"{number} {time.monotonic()}\n")
        return {"ready": number}

    @DBOS.workflow()
    def ladder(number, marker=""):
        allocate(number)
        apply(number, marker)
        return ready(number, marker)

    DBOS.launch()
    return DBOS, ladder


def run(a):
    _, ladder = launched(a.url)
    for number in range(5):
        ladder(number)
    took, end = [], time.perf_counter() + a.seconds

    def climb():
        while (began := time.perf_counter()) < end:
            ladder(1)
            took.append(time.perf_counter() - began)

    wall, cpu = time.perf_counter(), time.process_time()
    threads = [threading.Thread(target=climb) for _ in range(a.n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    took.sort()
    return {
        "per_s": len(took) / wall, "cpu_ms": cpu / len(took) * 1e3, "p50_ms": statistics.median(took) * 1e3,
        "p99_ms": took[int(len(took) * 0.99)] * 1e3, "ladders": len(took),
    }  # fmt: skip


def recover(a):
    from dbos import SetWorkflowID

    dbos, ladder = launched(a.url)
    if os.environ.get("BENCH_HANG"):
        for number in range(a.n):
            with SetWorkflowID(f"rec-{number}"):
                dbos.start_workflow(ladder, number, a.marker)
        time.sleep(3600)
    for number in range(a.n):
        dbos.retrieve_workflow(f"rec-{number}").get_result()
    return {"cpu_s": time.process_time()}


def history(a):
    import sqlalchemy as sa
    from dbos import SetWorkflowID

    dbos, ladder = launched(a.url)
    for number in range(100):
        with SetWorkflowID(f"h-{number:03d}"):
            ladder(number)
    on_postgres = a.url.startswith("postgres")
    engine = sa.create_engine(a.url.replace("postgresql://", "postgresql+psycopg://"))
    schema, copies = ("dbos." if on_postgres else ""), a.n // 100
    if on_postgres:
        numbers = f"generate_series(1,{copies}) g(i)"
    else:
        numbers = f"(WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM s WHERE i<{copies}) SELECT i FROM s) g"
    with engine.begin() as db:
        for table in ("workflow_status", "operation_outputs"):
            if on_postgres:
                asked = (
                    "SELECT column_name FROM information_schema.columns WHERE table_schema='dbos'"
                    f" AND table_name='{table}' AND is_generated='NEVER' ORDER BY ordinal_position"
                )
                columns = [row[0] for row in db.execute(sa.text(asked))]
            else:
                columns = [row[1] for row in db.execute(sa.text(f"PRAGMA table_info({table})"))]
            picked = ",".join("w.workflow_uuid||'-'||g.i" if c == "workflow_uuid" else f'w."{c}"' for c in columns)
            names = ",".join(f'"{c}"' for c in columns)
            db.execute(
                sa.text(
                    f"INSERT INTO {schema}{table}({names}) SELECT {picked} FROM {schema}{table} w"
                    f" CROSS JOIN {numbers} WHERE w.workflow_uuid LIKE 'h-%'"
                )
            )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        db.execute(sa.text("ANALYZE"))
    took, cpu = [], 0.0
    for number in range(a.reads):
        which = f"h-{number % 100:03d}-{number * 37 % copies + 1}"
        wall, used = time.perf_counter(), time.process_time()
        status, steps = dbos.get_workflow_status(which), dbos.list_workflow_steps(which)
        took.append(time.perf_counter() - wall)
        cpu += time.process_time() - used
        if status is None or len(steps) != 3:
            sys.exit(f"{which} was not read whole")
    return {"one_p50_ms": statistics.median(took) * 1e3, "one_cpu_ms": cpu / a.reads * 1e3}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "recover", "history"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--reads", type=int, default=300)
    parser.add_argument("--marker", default="")
    a = parser.parse_args()
    print(json.dumps({"run": run, "recover": recover, "history": history}[a.what](a)), flush=True)
    os._exit(0)  # its threads would be waited for


if __name__ == "__main__":
    main()
