"""``slicer.app.coreIOManager()``: reads and writes through MRML's real storage nodes and logics.

The real one asks the readers and writers of each module; this one goes to what those call in the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
import vtk

from .standins import imitates

#: File type → class of the node that it becomes.
_NODE_CLASSES = {
    "SegmentationFile": "vtkMRMLSegmentationNode",
    "TableFile": "vtkMRMLTableNode",
    "TextFile": "vtkMRMLTextNode",
    "ModelFile": "vtkMRMLModelNode",
    "TransformFile": "vtkMRMLTransformNode",
    "ColorTableFile": "vtkMRMLColorTableNode",
}
_FILE_TYPES = {
    ".seg.nrrd": "SegmentationFile",
    ".mrml": "SceneFile",
    ".mrb": "SceneFile",
    ".mrk.json": "MarkupsFile",
    ".fcsv": "MarkupsFile",
    ".tsv": "TableFile",
    ".csv": "TableFile",
    ".txt": "TextFile",
    ".json": "TextFile",
    ".h5": "TransformFile",
    ".tfm": "TransformFile",
    ".ctbl": "ColorTableFile",
    ".vtk": "ModelFile",
    ".vtp": "ModelFile",
    ".stl": "ModelFile",
}


@imitates("qSlicerIOManager")
class IOManager:
    """Reading and writing of nodes and scenes."""

    def fileType(self, file: str) -> str:
        """Return the file type by the longest extension that is known; anything else is taken for a volume."""
        name = str(file).lower()
        fits = [extension for extension in _FILE_TYPES if name.endswith(extension)]
        return _FILE_TYPES[max(fits, key=len)] if fits else "VolumeFile"

    def fileWriterFileType(self, node: Any, extension: str = "") -> str:
        return next((kind for kind, cls in _NODE_CLASSES.items() if node.IsA(cls)), "NodeFile")

    def fileWriterExtensions(self, node: Any) -> list[str]:
        storage = _fresh_storage(node)
        storage.SetScene(slicer.mrmlScene)  # A volume's storage node asks the scene which formats there are.
        types = storage.GetSupportedWriteFileTypes()
        formats = [types.GetValue(index) for index in range(types.GetNumberOfValues())]
        return [text for text in formats if slicer.vtkDataFileFormatHelper.GetFileExtensionFromFormatString(text)]

    def extractKnownExtension(self, file: str, node: Any) -> str:
        name = str(file).lower()
        formats = map(slicer.vtkDataFileFormatHelper.GetFileExtensionFromFormatString, self.fileWriterExtensions(node))
        return max((extension for extension in formats if extension and name.endswith(extension)), key=len, default="")

    def loadNodes(self, file_type: str, properties: dict[str, Any], loaded: Any = None, messages: Any = None) -> bool:
        """Read a file into the scene; what became of it is put into ``loaded``."""
        file = str(properties["fileName"])
        if file_type == "SceneFile":
            return self.loadScene(file, bool(properties.get("clear", False)), messages)
        if file_type == "VolumeFile":
            node = _load_volume(file, properties)
        elif file_type == "MarkupsFile":
            node = _load_markups(file, properties)
        else:
            node = _load_by_storage(file, _NODE_CLASSES[file_type], properties, messages)
        if node is None:
            return False
        if loaded is not None:
            loaded.AddItem(node)
        return True

    def loadFile(self, file: str, messages: Any = None) -> bool:
        return self.loadNodes(self.fileType(file), {"fileName": file}, None, messages)

    def loadScene(self, file: str, clear: bool = True, messages: Any = None) -> bool:
        scene = slicer.mrmlScene
        if file.lower().endswith(".mrb"):
            return bool(scene.ReadFromMRB(file, clear, messages or slicer.vtkMRMLMessageCollection()))
        scene.SetURL(file)
        return bool(scene.Connect(messages) if clear else scene.Import(messages))

    def saveNodes(self, file_type: str, properties: dict[str, Any], messages: Any = None, scene: Any = None) -> bool:
        """Write a node, or the scene, to a file, which the node is kept in from now on."""
        file = str(properties["fileName"])
        if file_type == "SceneFile":
            return _save_scene(file, messages)
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        storage = node.GetStorageNode()
        if storage is None or not storage.GetSupportedFileExtension(file, False, True):
            node.AddDefaultStorageNode(file)
            storage = node.GetStorageNode()
        return _write(storage, node, file, properties, messages)

    def exportNodes(
        self,
        node_ids: list[str],
        files: list[str],
        properties: dict[str, Any],
        harden: bool = False,
        messages: Any = None,
    ) -> bool:
        """Write copies of nodes; the nodes keep the files that they have."""
        written = True
        for node_id, file in zip(node_ids, files, strict=True):
            node = slicer.mrmlScene.GetNodeByID(node_id)
            copies = slicer.vtkMRMLScene()
            copies.SetDataIOManager(slicer.mrmlScene.GetDataIOManager())
            copy = copies.AddNode(node.CreateNodeInstance())
            copy.CopyContent(node)
            if harden and node.GetParentTransformNode() is not None:
                _harden(copy, node.GetParentTransformNode())
            storage = copies.AddNode(_fresh_storage(node, str(file)))
            written = _write(storage, copy, str(file), properties, messages) and written
        return written

    def addDefaultStorageNodes(self) -> None:
        for node in slicer.util.getNodesByClass("vtkMRMLStorableNode"):
            if node.GetSaveWithScene() and node.GetStorageNode() is None:
                node.AddDefaultStorageNode()


def _fresh_storage(node: Any, file: str = "") -> Any:
    by_content = node.GetDefaultStorageNodeClassName(file) if file else node.GetDefaultStorageNodeClassName()
    return getattr(slicer, by_content)()


def _harden(node: Any, transform: Any) -> None:
    if transform.IsTransformToWorldLinear():
        matrix = vtk.vtkMatrix4x4()
        transform.GetMatrixTransformToWorld(matrix)
        node.ApplyTransformMatrix(matrix)
    else:
        to_world = vtk.vtkGeneralTransform()
        transform.GetTransformToWorld(to_world)
        node.ApplyTransform(to_world)


def _write(storage: Any, node: Any, file: str, properties: dict[str, Any], messages: Any) -> bool:
    storage.SetFileName(file)
    storage.SetURI(None)
    if "useCompression" in properties:
        storage.SetUseCompression(bool(properties["useCompression"]))
    written = bool(storage.WriteData(node))
    if not written and messages is not None:
        messages.AddMessages(storage.GetUserMessages())
    return written


def _load_volume(file: str, properties: dict[str, Any]) -> Any:
    options = 0
    for bit, name in enumerate(("labelmap", "center", "singleFile", "autoWindowLevel", "discardOrientation")):
        default = name == "autoWindowLevel"
        options |= int(bool(properties.get(name, default))) << bit
    if not Path(file).is_file():
        return None
    name = properties.get("name") or _base_name(file)
    return slicer.modules.volumes.logic().AddArchetypeVolume(file, name, options)


def _load_markups(file: str, properties: dict[str, Any]) -> Any:
    node_id = slicer.modules.markups.logic().LoadMarkups(file, properties.get("name") or _base_name(file))
    return slicer.mrmlScene.GetNodeByID(node_id) if node_id else None


def _load_by_storage(file: str, class_name: str, properties: dict[str, Any], messages: Any) -> Any:
    scene = slicer.mrmlScene
    node = scene.AddNewNodeByClass(class_name, scene.GenerateUniqueName(properties.get("name") or _base_name(file)))
    node.AddDefaultStorageNode(file)
    storage = node.GetStorageNode()
    storage.SetFileName(file)
    if storage.ReadData(node):
        if node.IsA("vtkMRMLDisplayableNode"):
            node.CreateDefaultDisplayNodes()
        return node
    if messages is not None:
        messages.AddMessages(storage.GetUserMessages())
    scene.RemoveNode(storage)
    scene.RemoveNode(node)
    return None


def _save_scene(file: str, messages: Any) -> bool:
    scene = slicer.mrmlScene
    if file.lower().endswith(".mrb"):
        return bool(scene.WriteToMRB(file, None, messages or slicer.vtkMRMLMessageCollection()))
    if file.lower().endswith(".mrml"):
        scene.SetURL(file)
        scene.SetRootDirectory(str(Path(file).parent))
        return bool(scene.Commit(None, messages))
    Path(file).mkdir(parents=True, exist_ok=True)
    return bool(scene.SaveSceneToSlicerDataBundleDirectory(file, None, messages))


def _base_name(file: str) -> str:
    name = Path(file).name
    for extension in (*sorted(_FILE_TYPES, key=len, reverse=True), ".nii.gz", ".nii", ".nrrd", ".mha"):
        if name.lower().endswith(extension):
            return name[: -len(extension)]
    return Path(file).stem
