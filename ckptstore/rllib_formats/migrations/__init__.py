"""Upgrade what older RLlib releases wrote to what the newest one writes, in memory, one step at a time.

A *raw* checkpoint is a dict with any of these documents. A step upgrades those that it is given, each by
itself, so that one policy of a hundred can be read without the others:

``algorithm``
    Up to 1.2 the content of ``algorithm_state.*`` (0.1: of the one pickle). From 2.0 on a dict with the
    content of the tree of components: ``algorithm_state``, ``ctor`` ({"class", "args", "kwargs"}),
    ``env_runner``, ``learner``, ``policy_ids``.
``policies``
    By id; up to 1.2 the content of ``policy_state.*``, with ``learner_state`` beside it in 1.2. From
    2.0 on ``module_state``, ``optimizer``, ``ctor``.
``tune_metadata``
    The content of ``.tune_metadata``, which Ray wrote beside a checkpoint up to 2.6.

What the old API stack stored and the new one can't hold goes to ``old_stack``; nothing is dropped. Steps
work on plain data, never import today's classes, draw no random number and read no clock. They are frozen
once released: a later step mends a mistake.

A new version is a file here, named after the two versions, and its place in :mod:`.chain`.
"""
