"""Whatever interrupts a load: what is there in the end is what the source holds, each document once."""

import threading
from typing import Any

import pytest
from bson import encode
from pymongo import MongoClient

from ebbtide.domain.optime import OplogTimestamp
from ebbtide.errors import JobCancelled
from ebbtide.restore.load.batches import as_batch
from ebbtide.restore.load.creation import create_anew, create_collections, create_views
from ebbtide.restore.load.failure import LoadFailed
from ebbtide.restore.load.flow import Flow
from ebbtide.restore.load.indexes import build_indexes
from ebbtide.restore.load.insertion import insert_batch
from ebbtide.restore.load.removal import execute_removal
from ebbtide.testing.lab import ReplicaSetLab

Document = dict[str, Any]
Client = MongoClient[Document]


class Cancelling:
    """A check that raises from the moment on that somebody calls `cancel`."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self, _: object = None) -> None:
        self._event.set()

    def __call__(self) -> None:
        if self._event.is_set():
            raise JobCancelled("somebody asked this job to stop")


def test_a_load_goes_on_from_the_last_finished_collection(story: Any) -> None:
    names = ("shop.orders", "shop.products", "telemetry.recent", "telemetry.measurements", "archive.words")
    plan = story.plan(*names)
    story.begin(plan)
    finished: set[str] = set()
    loads = 0
    while len(finished) < len(plan.collections):
        cancelling = Cancelling()
        create_collections(story.target, plan, finished=finished, check=lambda: None)
        before = {c.namespace: _objects(story.target, c.target) for c in plan.collections}
        try:
            # Each attempt is stopped as it begins its second collection, at the soonest.
            story.load(plan, finished=finished, check=cancelling, on_loaded=cancelling.cancel)
        except JobCancelled:
            pass
        recorder = story.recorders[-1]
        assert finished.isdisjoint(recorder.finished_names)
        assert {n: before[n] for n in finished} == {
            c.namespace: _objects(story.target, c.target) for c in plan.collections if c.namespace in finished
        }
        finished |= set(recorder.finished_names)
        loads += 1
        assert loads <= 20
    story.index(plan)
    assert story.differences(plan) == ()


def _objects(target: Client, namespace: tuple[str, str]) -> object:
    database, name = namespace
    found = next(target[database].list_collections(filter={"name": name}))
    return found["info"]["uuid"], target[database][name].count_documents({})


@pytest.mark.parametrize("namespace", ["shop.orders", "telemetry.recent"])
def test_an_election_in_the_middle_doubles_and_loses_nothing(
    story: Any, keyfile_lab: ReplicaSetLab, namespace: str
) -> None:
    plan = story.plan(namespace)
    story.begin(plan)
    recorder = story.load(plan, on_loaded=lambda _: keyfile_lab.step_down())
    assert [namespace] == recorder.finished_names
    assert plan.documents == recorder.documents[namespace]
    story.index(plan)
    assert story.differences(plan) == ()


def test_what_is_there_is_not_inserted_again(story: Any) -> None:
    documents = [{"_id": n, "text": "x" * n} for n in range(20)]
    target = story.target
    target.again.things.insert_many(documents[5:15])
    batch = as_batch(b"".join(encode(document) for document in documents))
    for _ in range(2):
        insert_batch(target, ("again", "things"), batch, check=lambda: None)
        assert documents == list(target.again.things.find(sort=[("_id", 1)]))
    target.again.things.update_one({"_id": 7}, {"$set": {"text": "of somebody else"}})
    with pytest.raises(LoadFailed, match=r"again\.things.*another document"):
        insert_batch(target, ("again", "things"), batch, check=lambda: None)


def test_a_refused_document_ends_it_without_showing_data(story: Any) -> None:
    batch = as_batch(encode({"_id": {"$secret": "of a customer"}}))
    with pytest.raises(LoadFailed, match=r"again\.things.*code 52") as failure:
        insert_batch(story.target, ("again", "things"), batch, check=lambda: None)
    assert "customer" not in str(failure.value)
    assert "secret" not in str(failure.value)


def test_a_removal_that_was_interrupted_is_made_again(story: Any) -> None:
    story.target.gone.one.insert_one({})
    story.target.gone.create_collection("two", timeseries={"timeField": "at"})
    story.target.gone.two.insert_one({"at": story.target.admin.command("hello")["localTime"]})
    plan = story.plan()
    cancelling = Cancelling()
    with pytest.raises(JobCancelled):
        execute_removal(story.target, plan, check=cancelling, on_removed=cancelling.cancel)
    for _ in range(2):
        execute_removal(story.target, plan, check=lambda: None)
        assert "gone" not in story.target.list_database_names()


def test_indexes_and_views_are_made_again(story: Any) -> None:
    plan = story.plan("shop.orders", "shop.unpaid", "telemetry.measurements")
    story.begin(plan)
    story.load(plan)
    cancelling = Cancelling()
    cancelling.cancel()
    with pytest.raises(JobCancelled):
        build_indexes(story.target, plan, check=cancelling)
    for _ in range(2):
        built: dict[str, int] = {}
        build_indexes(story.target, plan, check=lambda: None, on_built=built.__setitem__)
        create_views(story.target, plan, check=lambda: None)
        assert built == {"shop.orders": 3, "telemetry.measurements": 1}
        assert story.differences(plan) == ()


def test_a_collection_under_its_name_makes_way(story: Any) -> None:
    (planned,) = story.plan("shop.orders").collections
    for _ in range(2):
        story.target.shop.orders.insert_one({"of": "an earlier attempt"})
        create_anew(story.target, planned)
        assert (planned.uuid, 0) == _objects(story.target, planned.target)
    assert story.target.shop.list_collection_names() == ["orders"]


def test_the_load_waits_for_whoever_archives_the_oplog(story: Any) -> None:
    position = OplogTimestamp(1, 0)
    flow = Flow(story.target, limit_bytes=5_000, archived=lambda: position, check=lambda: None)
    flow.wait_for_room()
    batch = as_batch(encode({"_id": 1, "fill": bytes(6_000)}))
    answer = insert_batch(story.target, ("flow", "things"), batch, check=lambda: None)
    flow.sent(answer, size_bytes=len(batch.raw), documents=batch.count)

    waiting = threading.Thread(target=flow.wait_for_room)
    waiting.start()
    waiting.join(1.5)
    assert waiting.is_alive()
    position = OplogTimestamp.from_bson(answer["operationTime"])
    waiting.join(60)
    assert not waiting.is_alive()


def test_a_build_that_runs_is_ended_when_nobody_wants_it_any_more(story: Any) -> None:
    plan = story.plan("shop.orders", "shop.customers", "shop.products")
    story.begin(plan)
    story.load(plan)
    cancelling = Cancelling()
    timer = threading.Timer(0.01, cancelling.cancel)
    timer.start()
    try:
        # Whether it comes in the middle of a build or after the last: nothing is left half done.
        build_indexes(story.target, plan, check=cancelling)
    except JobCancelled:
        pass
    timer.join()
    building = {"op": "command", "command.createIndexes": {"$exists": True}}
    with story.target.admin.aggregate([{"$currentOp": {}}, {"$match": building}]) as found:
        assert list(found) == []
    story.index(plan)
    assert story.differences(plan) == ()
