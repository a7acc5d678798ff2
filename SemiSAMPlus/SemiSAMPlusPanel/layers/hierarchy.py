"""Folders of the subject hierarchy, found again by the attributes that they carry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import slicer
import vtk

#: Takes the attributes of a folder and says whether it is the one looked for.
IsIt = Callable[[Mapping[str, str]], bool]


def put_in_folder(node: Any, name: str, marks: Mapping[str, str], is_it: IsIt, *, under: Any = None) -> None:
    """Put a node into a folder, wherever the user has moved that; it is made where it is missing.

    Args:
        node: What to put there; it is in a scene.
        name: The name of a new folder.
        marks: The attributes of a new folder.
        is_it: Tells the folder by its attributes of the names of ``marks``.
        under: The node below which a new folder is made; the top of the hierarchy where there is none.
    """
    tree = _tree(node.GetScene())
    if tree is None:
        return
    folder = _find(tree, tuple(marks), is_it)
    if folder is None:
        folder = tree.CreateFolderItem(tree.GetSceneItemID() if under is None else _item(tree, under), name)
        for key, value in marks.items():
            tree.SetItemAttribute(folder, key, value)
        tree.SetItemExpanded(folder, False)
    tree.SetItemParent(_item(tree, node), folder)


def remove_item(node: Any) -> None:
    """Remove a node's item, as Slicer's application does when the node goes; the node stays."""
    tree = _tree(node.GetScene())
    item = None if tree is None else tree.GetItemByDataNode(node)
    if item is not None and item != tree.GetInvalidItemID():
        tree.RemoveItem(item, False, False)


def remove_empty_folder(scene: Any, keys: tuple[str, ...], is_it: IsIt) -> None:
    """Remove a folder if nothing lies in it any more.

    Args:
        scene: The scene.
        keys: The names of the attributes that tell it.
        is_it: Tells the folder by these attributes.
    """
    tree = _tree(scene)
    folder = None if tree is None else _find(tree, keys, is_it)
    if folder is not None and tree.GetNumberOfItemChildren(folder) == 0:
        tree.RemoveItem(folder)


def _tree(scene: Any) -> Any:
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)


def _item(tree: Any, node: Any) -> int:
    """Return a node's item, which Slicer's application makes for each node, and nobody does outside of it."""
    item = tree.GetItemByDataNode(node)
    return int(item if item != tree.GetInvalidItemID() else tree.CreateItem(tree.GetSceneItemID(), node))


def _find(tree: Any, keys: tuple[str, ...], is_it: IsIt) -> int | None:
    for item in _items(tree):
        marks = {key: tree.GetItemAttribute(item, key) for key in keys}
        if all(marks.values()) and is_it(marks):
            return item
    return None


def _items(tree: Any) -> Iterator[int]:
    items = vtk.vtkIdList()
    tree.GetItemChildren(tree.GetSceneItemID(), items, True)
    yield from (items.GetId(index) for index in range(items.GetNumberOfIds()))
