"""``slicer.app.moduleManager()`` and the modules that it knows."""

from __future__ import annotations

from typing import Any

import slicer

from .standins import imitates, stand_in


class CoreModule:
    """One of Slicer's own modules, of which the host has the logic alone."""

    def __init__(self, name: str, logic: Any) -> None:
        self.name = self.title = name
        self.path = ""
        self._logic = logic

    def logic(self) -> Any:
        """Return the real logic."""
        return self._logic

    def widgetRepresentation(self) -> Any:
        """Refuse: the host has no panels of Slicer's own modules."""
        msg = f"The panel of {self.name} is not in the test host"
        raise NotImplementedError(msg)


@imitates("qSlicerModuleManager")
class ModuleManager:
    """Slicer's own modules, and the scripted ones that were loaded."""

    def host_add(self, module: Any) -> None:
        """Make a module known, as ``slicer.modules.NAME`` too."""
        self.__dict__.setdefault("_known", {})[module.name] = module
        setattr(slicer.modules, module.name.lower(), module)

    def host_forget(self, name: str) -> None:
        """Unload a module."""
        self.moduleAboutToBeUnloaded.emit(name)
        self._known.pop(name)
        delattr(slicer.modules, name.lower())

    def module(self, name: str) -> Any:
        return self._known.get(name)

    def modulesNames(self) -> list[str]:
        return list(self._known)

    def factoryManager(self) -> Any:
        factory = stand_in("qSlicerModuleFactoryManager")(self)
        factory._modules = self
        return factory


@imitates("qSlicerModuleFactoryManager")
class ModuleFactoryManager:
    """Says which modules are loaded."""

    def loadedModuleNames(self) -> list[str]:
        return self._modules.modulesNames()

    def isLoaded(self, name: str) -> bool:
        return name in self._modules.modulesNames()
