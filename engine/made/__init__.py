"""Retrieval data drawn here: views of objects, scenes, and whole sets with ground truth."""

from engine.made.objects import drawn_object, kind_of
from engine.made.scenes import drawn_scene
from engine.made.sets import SetOptions, WrittenSet, write_set
from engine.made.views import InstanceView, instance_view
from engine.made.words import words

__all__ = [
    "InstanceView",
    "SetOptions",
    "WrittenSet",
    "drawn_object",
    "drawn_scene",
    "instance_view",
    "kind_of",
    "words",
    "write_set",
]
