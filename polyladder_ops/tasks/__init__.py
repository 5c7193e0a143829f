"""All tasks: `ns` is what `tasks.py` hands to Invoke. Verbs at the top, things below."""

from invoke.collection import Collection

from polyladder_ops.tasks import (
    backup,
    configuration,
    dev,
    doctor,
    fault,
    fly,
    health,
    migrate,
    restore,
    retention,
    sandbox,
    verify,
)

__all__ = ["ns"]

configuration.guard()
ns = Collection()
for verb in (retention.prune, retention.pin, retention.unpin):
    backup.collection.add_task(verb)
ns.add_collection(backup.collection)
ns.add_task(verify.verify)
ns.add_collection(restore.collection)
ns.add_task(doctor.doctor)
ns.add_task(health.health)
ns.add_collection(migrate.collection)
ns.add_collection(fly.collection)
sandbox.collection.add_task(fault.fault)
ns.add_collection(sandbox.collection)
ns.add_collection(dev.collection)
# Equal calls on one command line are meant: `invoke backup backup` is two backups.
ns.configure({"tasks": {"dedupe": False}})
