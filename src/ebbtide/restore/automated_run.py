"""Carrying out a restore job whose result is data in a running cluster, in place of what was there.

    begin      the delivery says IN_PROGRESS
    preflight  the target's owner still consents, its account may write, versions fit; what undoing takes is there
    archive    waited for, until the oplog archive of the source has reached the moment that was asked for
    source     the data of that moment, in scratch, on a mongod of its own; every collection of it was read
    fit        space on the target, now that the size of the data is known
    protect    other writers are kept off, and the target is archived up to now: the undo point
    remove     what the plan names goes                           from here on the target is not what it was
    load       collections, documents, indexes, views             (`restore.automated_load`)
    compare    the target with its source; every difference is named
    complete   what changes what was compared: from here on documents expire again
    finish     others may write again, and the job says FINISHED

Invariants
  * nothing on the target is changed before its source was proven and the undo point recorded
  * the record says what was done to the target before it is done (`domain.automated_restore.TargetState`)
  * writers are kept off only while an attempt runs: whatever ends one lets them go, and a worker that was killed leaves
    a record by which the next attempt, or `restore.abandoned`, does
Crash: the next attempt builds the source anew, as it is worth nothing after a crash, and goes on with the target where it
was left: a removal is made again, a collection that was finished is not loaded again.
"""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, TypeVar

import structlog
from pymongo import MongoClient

from ebbtide.backup.context import BackupContext
from ebbtide.crash_points import reach
from ebbtide.domain.automated_restore import (
    AutomatedRestore,
    SourceFacts,
    TargetState,
    WriteBlock,
    plan_resumption,
    refuse_target,
    tell_target,
)
from ebbtide.domain.cluster import Cluster, ClusterKind
from ebbtide.domain.event import EventLevel
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import RestoreEvent, RestoreJob, RestoreStatus
from ebbtide.errors import EbbtideError, JobCancelled, LeaseLost, NotFound, Refused
from ebbtide.events import record_event
from ebbtide.jobs.runner import Ending, JobRun, Step, WorkerStopping
from ebbtide.restore.automated_source import batch_parts, source_of
from ebbtide.restore.automated_target import Load, RestoreTarget, target_of
from ebbtide.restore.job_record import RestoreJobRecord
from ebbtide.restore.preflight import PreflightFailed
from ebbtide.restore.source import scratch_directory, wipe_scratch
from ebbtide.restore.target_access import TargetAccess
from ebbtide.restore.undo_point import prepare_undo, record_undo_point
from ebbtide.restore.write_block import find_foreign_writes, newest_entry

Client = MongoClient[dict[str, Any]]
T = TypeVar("T")

SHOWN_DIFFERENCES_MAX = 20
"""Of more than that, the record has the rest."""

_log = structlog.get_logger()


class RestoreDiffers(EbbtideError):
    """What is on the target is not what was to be restored."""

    exit_code = 11


class AutomatedRun:
    """One attempt at one restore job. `steps` and `ending` are for the runner."""

    def __init__(self, run: JobRun, *, context: BackupContext) -> None:
        self._run = run
        self._context = context
        self._catalog = context.catalog
        self._restore = RestoreJobRecord(run, context=context)
        self._id = self._restore.id
        self._scratch = scratch_directory(context, self._id)
        self._stack = ExitStack()
        self._parts = batch_parts(run, context=context)
        self._source = source_of(run, self._restore, self._parts, context=context, scratch=self._scratch)
        self._target: RestoreTarget | None = None
        self._load: Load | None = None

    def steps(self) -> list[Step]:
        return [
            Step(name="begin", run=self._begin),
            Step(name="preflight", run=self._unless_done(self._preflight)),
            Step(name="archive", run=self._unless_done(self._await_archive)),
            Step(name="source", run=self._unless_done(self._build_source)),
            Step(name="fit", run=self._unless_done(self._fit)),
            Step(name="protect", run=self._unless_done(self._protect)),
            Step(name="remove", run=self._unless_done(self._remove)),
            Step(name="load", run=self._unless_done(self._load_all)),
            Step(name="compare", run=self._unless_done(self._compare)),
            Step(name="complete", run=self._unless_done(self._complete)),
            Step(name="finish", run=self._finish),
        ]

    def ending(self) -> Ending:
        return Ending(always=self._clean_up, gave_up=self._give_up, cancelled=self._cancel)

    def _unless_done(self, step: Callable[[], None]) -> Callable[[], None]:
        """A step of an attempt; nothing where an earlier one had compared everything, and only its end is missing."""

        def run() -> None:
            # The heartbeat hears of a cancellation a little later; no step begins that nobody wants any more.
            self._job()
            if self._record().target_state is not TargetState.RESTORED:
                step()

        return run

    # --- before the target is touched -----------------------------------------------------------------------------

    def _begin(self) -> None:
        """Crash: the next attempt begins again, and nobody sees a difference."""
        if self._job().status is RestoreStatus.IN_PROGRESS:
            self._apply(RestoreEvent.WORKER_BEGAN)

    def _preflight(self) -> None:
        """Crash: a snapshot of the target may have been asked for; the next attempt waits for it."""
        record, cluster = self._record(), self._target_cluster()
        problem = refuse_target(cluster)
        if problem is not None:
            raise PreflightFailed(problem)
        self._target_side().prove()
        self._source.require_bases()
        if record.wants_undo and record.target_state is TargetState.UNTOUCHED:
            prepare_undo(self._context, record, cluster)

    def _await_archive(self) -> None:
        """Crash: waited for again."""
        self._source.await_archives()

    def _build_source(self) -> None:
        """Crash: a scratch directory that the next attempt wipes."""
        source = self._source.open(self._stack)
        self._load = self._target_side().open(self._stack, source, self._record())
        self._load.prove_source()
        replays = [built.replayed for built in self._source.built if built.replayed is not None]
        if replays:
            self._catalog.automated_restores.update(
                self._id,
                entries_applied=sum(replayed.entries_applied for replayed in replays),
                replay_seconds=round(sum(replayed.seconds for replayed in replays), 3),
            )
        reach("automated.source_proven")

    def _fit(self) -> None:
        """Crash: nothing was changed."""
        versions = (built.manifest.fcv for built in self._source.built)
        self._target_side().require_fit(
            self._record(),
            SourceFacts(fcv=max(versions, default=""), data_bytes=self._need(self._load).size_bytes),
        )

    # --- the target -----------------------------------------------------------------------------------------------

    def _protect(self) -> None:
        """Keep others off, and record the last moment before anything goes.

        Crash: writers may be kept off, which the record says; the undo point is taken once, while all is still there.
        """
        record, cluster = self._record(), self._target_cluster()
        state = self._target_side().keep_quiet(record)
        if record.target_state is TargetState.UNTOUCHED:
            if record.wants_undo:
                record_undo_point(self._context, record, cluster, self._run)
            reach("automated.protected")
        else:
            self._start_anew_after_foreign_writes(self._record())
        if state is WriteBlock.NOT_OFFERED and record.quiet_after is None:
            self._note_quiet()

    def _start_anew_after_foreign_writes(self, record: AutomatedRestore) -> None:
        """Who wrote between two attempts wrote into half of the data: all of it is removed once more."""
        found = self._foreign_writes(record)
        if found:
            self._tell_foreign_writes(found)
        # A sharded cluster has too many oplogs to look through: whoever could write may have.
        is_unknown = self._target_is_sharded() and record.quiet_after is not None
        if found or is_unknown:
            self._catalog.automated_restores.update(
                self._id,
                foreign_writes=found,
                comparison=None,
                quiet_after=None if is_unknown else record.quiet_after,
                target_state=TargetState.REMOVING,
            )

    def _remove(self) -> None:
        """Crash: some of it is gone, and the next attempt removes the rest."""
        if plan_resumption(self._record(), ()).removal_is_done:
            return
        self._state(TargetState.REMOVING)
        self._need(self._load).remove()
        # Before the state says that what is recorded to be in place is.
        self._catalog.automated_restores.forget_finished(self._id)
        self._state(TargetState.LOADING)
        reach("automated.removed")

    def _load_all(self) -> None:
        """Crash: collections that were finished are not loaded again; others are created anew."""
        finished = self._catalog.automated_restores.find_finished(self._id)
        self._need(self._load).load(plan_resumption(self._record(), finished).finished)
        self._state(TargetState.LOADED)

    def _compare(self) -> None:
        """Crash before its one write: compared again. After it: not any more, as expiry may have begun."""
        if self._record().comparison is not None:
            return
        comparison = self._need(self._load).compare()
        self._catalog.automated_restores.update(self._id, comparison=comparison)
        if self._record().write_block is WriteBlock.NOT_OFFERED:
            found = self._foreign_writes(self._record())
            self._catalog.automated_restores.update(self._id, foreign_writes=found)
            if found:
                self._tell_foreign_writes(found)
        if comparison.differences:
            self._state(TargetState.DIFFERENT)
            raise RestoreDiffers(
                f"{len(comparison.differences)} differences to what was to be restored: "
                + "; ".join(comparison.differences[:SHOWN_DIFFERENCES_MAX])
            )
        reach("automated.compared")

    def _complete(self) -> None:
        """Crash: done again."""
        self._need(self._load).complete()
        self._state(TargetState.RESTORED)

    def _finish(self) -> None:
        """Crash after the writers were let go: the next attempt only says that it is done."""
        self._let_go_of_writers()
        reach("automated.unblocked")
        job = self._job()
        restored = self._source.restored(job)
        done = self._apply(RestoreEvent.RESTORED, ready=self._context.clock.now(), timestamp=restored)
        if done is None and self._job().status is not RestoreStatus.FINISHED:
            raise JobCancelled("the restore job was cancelled")
        seconds = round((self._context.clock.now() - job.created).total_seconds(), 3)
        self._catalog.automated_restores.update(self._id, seconds=seconds)
        self._say_half_done(restored)
        self._event(
            EventLevel.INFO,
            "restore.into_done",
            f"{job.cluster_name} as of {restored.date.isoformat()} is on {self._record().target_name}",
        )
        self._release()

    def _say_half_done(self, restored: OplogTimestamp) -> None:
        if self._load is None:
            return
        unfinished = (index for built in self._source.built for index in built.settled.unfinished_indexes)
        for index in unfinished:
            if index.namespace in self._load.namespaces:
                self._event(
                    EventLevel.WARNING,
                    "restore.index_unfinished",
                    f"index {index.name} of {index.namespace} was still being built at {restored}: it did not exist yet, "
                    f"and is not on {self._record().target_name}",
                )

    # --- endings --------------------------------------------------------------------------------------------------

    def _clean_up(self) -> None:
        """However the attempt ended: let writers go, stop the source, remove its files."""
        try:
            self._run.check()
        except LeaseLost:
            # Another worker keeps writers off now, and uses these files if it is on this machine.
            with suppress(EbbtideError):
                self._stack.close()
            return
        except (JobCancelled, WorkerStopping):
            pass
        for undo in (self._let_go_of_writers, self._stack.close, lambda: wipe_scratch(self._scratch)):
            try:
                undo()
            except EbbtideError as error:
                _log.warning("automated.not_cleaned_up", restore_job_id=self._id, message=str(error))

    def _let_go_of_writers(self) -> None:
        record = self._record()
        if record.write_block is WriteBlock.OFF:
            return
        if record.write_block is WriteBlock.SET and record.target_state is not TargetState.RESTORED:
            # What others write from now on is found by the next attempt.
            self._note_quiet()
        self._target_side().let_go(record)

    def _give_up(self, reason: str) -> None:
        told = f"{reason.removesuffix('.')}; {tell_target(self._record())}"
        broken = self._apply(RestoreEvent.FAILED, reason=told)
        if broken is not None:
            self._event(EventLevel.ERROR, "restore.broken", f"restore job {self._id} is broken: {told}")
        self._release()

    def _cancel(self) -> None:
        """Whichever job of a batch was cancelled, none of them goes on."""
        job = self._catalog.restore_jobs.find(self._id)
        self._apply(RestoreEvent.CANCELLED, reason="" if job is None else job.reason)
        self._release()

    def _release(self) -> None:
        """Let others restore into the target. Where writers could not be let go, `restore.abandoned` does both."""
        record = self._record()
        if record.write_block is WriteBlock.OFF:
            self._catalog.automated_restores.release(self._id)

    # --- pieces ---------------------------------------------------------------------------------------------------

    def _foreign_writes(self, record: AutomatedRestore) -> tuple[str, ...]:
        if record.quiet_after is None:
            return ()
        if self._target_is_sharded():
            return ()
        access = TargetAccess(cluster=self._target_cluster(), service_key=self._context.service_key)
        with access.reader() as reader:
            return find_foreign_writes(
                reader,
                after=record.quiet_after,
                through=newest_entry(reader),
                written=record.scope.written,
            )

    def _note_quiet(self) -> None:
        """Write down the newest entry of the target: what comes after it is somebody else's."""
        access = TargetAccess(cluster=self._target_cluster(), service_key=self._context.service_key)
        with access.writer() as writer:
            self._catalog.automated_restores.update(self._id, quiet_after=newest_entry(writer))

    def _tell_foreign_writes(self, namespaces: tuple[str, ...]) -> None:
        self._event(
            EventLevel.WARNING,
            "restore.foreign_writes",
            f"somebody else wrote into {', '.join(namespaces)} of {self._record().target_name} while it was restored",
        )

    def _state(self, state: TargetState) -> None:
        self._catalog.automated_restores.update(self._id, target_state=state)

    def _apply(self, event: RestoreEvent, **changes: Any) -> RestoreJob | None:
        """Let it happen to every job of the batch, to the one that leads last; its record then, as of `apply`."""
        for part in self._parts:
            if part.id != self._id:
                self._catalog.restore_jobs.apply(part.id, event, **changes)
        return self._catalog.restore_jobs.apply(self._id, event, **changes)

    def _target_is_sharded(self) -> bool:
        return self._target_cluster().kind is ClusterKind.SHARDED

    def _job(self) -> RestoreJob:
        job = self._restore.load()
        if job.status is RestoreStatus.BROKEN:
            # Its worker died right after it had said so: nothing may be done to the target any more.
            raise JobCancelled("the restore job was given up")
        return job

    def _record(self) -> AutomatedRestore:
        record = self._catalog.automated_restores.find(self._id)
        if record is None:
            raise NotFound(f"nothing is known of the target of restore job {self._id}")
        return record

    def _target_side(self) -> RestoreTarget:
        if self._target is None:
            self._target = target_of(self._target_cluster(), context=self._context, run=self._run)
        return self._target

    def _target_cluster(self) -> Cluster:
        target = self._catalog.clusters.find(self._record().target_cluster_id)
        if target is None:
            raise NotFound(f"the target of restore job {self._id} is not in the catalog")
        return target

    @staticmethod
    def _need(found: T | None) -> T:
        """What an earlier step of this attempt has made."""
        if found is None:
            raise Refused("a step of the restore ran before the ones it builds on")
        return found

    def _event(self, level: EventLevel, kind: str, message: str) -> None:
        record = self._record()
        record_event(
            self._catalog,
            self._context.clock,
            level=level,
            kind=kind,
            message=message,
            group_id=record.target_group_id,
            cluster_id=record.target_cluster_id,
            subject_id=self._id,
        )
