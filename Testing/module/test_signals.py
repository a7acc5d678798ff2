"""Signals tell what happened to whoever is connected, without Qt."""

from __future__ import annotations

from SemiSAMPlusPanel.signals import Signal


def test_receivers_are_called_in_order_with_the_values() -> None:
    signal, told = Signal(), []
    signal.connect(lambda *values: told.append(("first", *values)))
    signal.connect(lambda *values: told.append(("second", *values)))
    signal.emit(1, "two")
    assert told == [("first", 1, "two"), ("second", 1, "two")]


def test_connecting_twice_is_the_same_as_once() -> None:
    signal, told = Signal(), []
    signal.connect(told.append)
    signal.connect(told.append)
    signal.emit("once")
    assert told == ["once"]


def test_a_receiver_can_disconnect_itself_and_others_while_it_is_called() -> None:
    signal, told = Signal(), []

    def first() -> None:
        told.append("first")
        signal.disconnect(first)
        signal.disconnect(second)

    def second() -> None:
        told.append("second")

    signal.connect(first)
    signal.connect(second)
    signal.emit()
    signal.emit()
    assert told == ["first"]


def test_who_connects_while_it_is_emitted_is_told_the_next_time() -> None:
    signal, told = Signal(), []
    signal.connect(lambda: signal.connect(late))

    def late() -> None:
        told.append("late")

    signal.emit()
    assert told == []
    signal.emit()
    assert told == ["late"]


def test_disconnecting_a_stranger_changes_nothing() -> None:
    signal = Signal()
    signal.disconnect(print)
    signal.emit()
