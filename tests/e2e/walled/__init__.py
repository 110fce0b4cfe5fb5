"""The world outside, played in a network namespace of the test's own: nothing in it reaches the real one.

``python -m tests.e2e.walled FOLDER -- COMMAND…`` runs inside ``unshare --net --mount``. It makes every address of the
internet a local one, answers names, plays public places and canaries on them, watches every packet that leaves, and
starts the command (the gateway) as its child. Tests outside speak to both over Unix sockets, which know no namespace.
"""
