"""The panel of viser's page: the controls of the light page, drawn with viser's widgets."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import viser
from viser import uplot
from viser._messages import RunJavascriptMessage

from lumigraph.app.console import sentence_of
from lumigraph.app.viewer.controls import COMPARE, KEYS, TRAIN, VIEW, Control
from lumigraph.app.viewer.gate import Role
from lumigraph.app.viewer.protocol import Scalar

SCRIPT = (
    "const s = document.createElement('script'); s.type = 'module'; s.src = '/static/full.js';"
    "document.head.append(s);"
)
"""Loads our part of the page into viser's page, from a file of ours on the same server."""

PLOTS = {
    "Loss": ("seconds", "loss"),
    "PSNR, dB": ("psnr_seconds", "psnr"),
    "Splats": ("seconds", "splats"),
}

NOTE_SECONDS = 8.0
"""A note other than an error disappears after this time: it covers a part of the picture."""

DIGITS = 6
"""Digits after the point of a number that is not whole."""

NUMBERS, HELP = "Numbers", "Keys"

MOUSE = {
    "Drag": "turn around the scene",
    "Right drag": "move sideways",
    "Wheel": "move nearer or farther",
    "W A S D, Q E": "fly ahead, left, back, right, down, up",
    "Arrows": "turn",
    "Ctrl K": "find a command by its name",
}
"""The mouse and keys that viser itself handles."""


@dataclass(frozen=True)
class PanelCallbacks:
    """The functions that a panel calls.

    Attributes:
        controls: All controls with their present values.
        state: What goes on, as plain data.
        do: Does what a control of the server says; ValueError has a text for the client.
    """

    controls: Callable[[], list[Control]]
    state: Callable[[], dict[str, Any]]
    do: Callable[[str, Scalar], None]


class Panel:
    """The panel of one client of viser's page.

    Attributes:
        client: The client.
        role: Of the client; a guest can use only the controls of the page itself.
    """

    def __init__(self, client: viser.ClientHandle, callbacks: PanelCallbacks, role: Role) -> None:
        """Draws the panel."""
        self.client, self.role, self._callbacks = client, role, callbacks
        self._widgets: dict[str, Any] = {}
        self._drawn: dict[str, Control] = {}
        self._beside: dict[str, Any] = {}  # a text above a progress bar, or below a greyed control
        self._settings: dict[str, Any] = {}  # of the page
        self._noted = 0
        self._first_view: dict[str, Any] | None = None
        _run_script(client, SCRIPT)
        tabs = client.gui.add_tab_group()
        names = (TRAIN, VIEW, COMPARE, NUMBERS, HELP)
        self._tabs = {name: tabs.add_tab(name) for name in names}
        with self._tabs[NUMBERS]:
            self._numbers = client.gui.add_markdown("")
            self._plots = {name: _plot(client, name) for name in PLOTS}
        self.refresh(first=True)
        # Below the tabs: a tab has no widgets before it is opened, and full.js sets this one.
        dark = client.gui.add_checkbox("Dark", False)
        dark.on_update(lambda event: self._paint(dark.value))
        commands = [self._command(use) for use in KEYS]
        with self._tabs[HELP]:
            client.gui.add_markdown(_table([*MOUSE.items(), *commands]))

    def refresh(self, *, first: bool = False) -> None:
        """Updates the widgets to the state as it is now.

        Args:
            first: Whether the client has just come: it sees only the last error of the older notes,
                since notes cover a part of the picture.
        """
        state = self._callbacks.state()
        controls = {_slot(control): control for control in self._callbacks.controls()}
        for name in [name for name in self._widgets if name not in controls]:
            self._widgets.pop(name).remove()
            self._drawn.pop(name)
            if name in self._beside:
                self._beside.pop(name).remove()
        for order, (name, control) in enumerate(controls.items()):
            if self._drawn.get(name) != control:
                self._draw(control)
                self._drawn[name] = control
            self._order(name, order)
        self._arrive((state.get("shown") or {}).get("first_view"))
        self._numbers.content = _table(state["numbers"])
        history = state.get("history") or {}
        for name, (xs, ys) in PLOTS.items():
            if len(history.get(ys, ())) > 1:
                self._plots[name].data = tuple(np.asarray(history[key], float) for key in (xs, ys))
                self._plots[name].visible = True
        notes = [note for note in state.get("notes", []) if note["id"] > self._noted]
        self._noted = max([self._noted, *(note["id"] for note in notes)])
        if first:
            notes = [note for note in notes if note["kind"] == "error"][-1:]
        for note in notes:
            self._tell(note["kind"], note["text"])

    def _draw(self, control: Control) -> None:
        """Makes the control's widget, or updates it."""
        name = _slot(control)
        if name not in self._widgets:
            with self._tabs[control["group"]]:
                self._widgets[name] = self._made(control)
        widget = self._widgets[name]
        if control["kind"] == "progress":
            widget.value = 100.0 * control["value"]
            self._beside[name].content = control["hint"]
            return
        widget.label = control["label"]
        if control["where"] == "page":
            self._settings.setdefault(name, control.get("value"))
        self._enable(control)
        # The page keeps the values of its own controls; only values of the server come from here.
        if control["where"] == "server" and "value" in control:
            if control["kind"] == "choice":
                labels = _labels(control)
                if tuple(widget.options) != tuple(labels):
                    widget.options = tuple(labels)
                widget.value = _label_of(control, control["value"])
            else:
                widget.value = control["value"]

    def _order(self, name: str, order: int) -> None:
        """Puts a widget, with its explanation, at that place among all widgets."""
        self._widgets[name].order = float(order)
        if words := self._beside.get(name):
            words.order = order - 0.5 if self._drawn[name]["kind"] == "progress" else order + 0.5

    def _enable(self, control: Control) -> None:
        """Greys the control's widget if it cannot be used."""
        needs = control.get("when", {}).items()
        idle = any(self._settings.get(name) not in values for name, values in needs)
        allowed = control["where"] == "page" or self.role == "control"
        self._widgets[_slot(control)].disabled = (
            not control.get("enabled", True) or not allowed or idle
        )

    def _made(self, control: Control) -> Any:
        gui, kind, label = self.client.gui, control["kind"], control["label"]
        hint = control.get("why") or control.get("hint")
        if kind in ("button", "upload"):
            widget = gui.add_button(label, hint=hint)
            widget.on_click(lambda event: self._used(control, True))
            return widget
        if kind == "progress":
            self._beside[_slot(control)] = gui.add_markdown("")  # viser's bar has none
            return gui.add_progress_bar(100.0 * control["value"])
        value: Any = control["value"]
        if kind == "choice":
            widget = gui.add_dropdown(
                label, _labels(control), initial_value=_label_of(control, value), hint=hint
            )
        elif kind == "check":
            widget = gui.add_checkbox(label, value, hint=hint)
        elif kind == "color":
            widget = gui.add_rgb(label, _rgb(value), hint=hint)
        elif kind == "slider":
            bounds = (control["low"], control["high"], control["step"])
            widget = gui.add_slider(label, *bounds, value, hint=hint)
        else:
            bounds = {"min": control["low"], "max": control["high"], "step": control["step"]}
            widget = gui.add_number(label, value, hint=hint, **bounds)
            if not isinstance(control["step"], int):  # which is an arrow's, no limit of digits
                widget.precision = DIGITS
        widget.on_update(lambda event: event.client and self._used(control, event.target.value))
        if why := control.get("why"):
            self._beside[_slot(control)] = gui.add_markdown(f"*{why}*")
        return widget

    def _tell(self, kind: str, text: str) -> None:
        """Shows a note as text."""
        title, color = ("Error", "red") if kind == "error" else ("Note", "blue")
        seconds = None if kind == "error" else NOTE_SECONDS
        self.client.add_notification(title, text, color=color, auto_close_seconds=seconds)

    def _arrive(self, view: dict[str, Any] | None) -> None:
        """Shows the settings that the page itself changes when another scene is shown."""
        if view is None or view == self._first_view:
            return
        self._first_view = view
        self._widgets["fov"].value = round(math.degrees(view["fov"]))
        self._widgets["up"].value = _label_of(self._drawn["up"], "scene")

    def _paint(self, dark: bool) -> None:
        """Makes the page light or dark."""
        self.client.gui.configure_theme(dark_mode=dark, show_share_button=False)

    def _command(self, use: dict[str, str]) -> tuple[str, str]:
        """Adds a key for a control to viser's page; returns the key and the control's label."""
        control, value = self._drawn[use["id"]], use.get("value")
        label = control["label"]
        if value is not None:
            label = f"{label}: {_label_of(control, value)}"
        key: Any = use["key"] if len(use["key"]) == 1 else use["key"].lower()
        command = self.client.gui.add_command(label, hotkey=key)
        command.on_trigger(lambda event: self._press(control, value))
        return use["key"], label

    def _press(self, control: Control, value: str | None) -> None:
        """Uses a control: sets it to `value`, toggles a check, or takes the next option."""
        widget = self._widgets[control["id"]]
        if control["kind"] == "button":
            self._used(control, True)
            return
        if control["kind"] == "check":
            widget.value = not widget.value
        elif value is not None:
            widget.value = _label_of(control, value)
        else:
            labels = _labels(control)
            widget.value = labels[(labels.index(widget.value) + 1) % len(labels)]
        self._used(control, widget.value)

    def _used(self, control: Control, value: Any) -> None:
        """Handles a used widget: the server acts on it, or the page does."""
        latest = self._drawn.get(_slot(control), control)
        if control["kind"] == "choice":
            by_label = {option["label"]: option["value"] for option in latest["options"]}
            value = by_label.get(value, value)
        elif control["kind"] == "color":
            value = "#{:02x}{:02x}{:02x}".format(*value)
        if control["kind"] == "upload":
            if self.role == "control":
                _run_script(self.client, "window.lumigraph?.pickFiles();")
        elif control["where"] == "page":
            arguments = json.dumps([control["id"], value])
            _run_script(self.client, f"window.lumigraph?.set(...{arguments});")
            self._settings[control["id"]] = value
            for other in self._drawn.values():
                if "when" in other:
                    self._enable(other)
        elif self.role == "control":
            try:
                self._callbacks.do(latest["id"], value)
            except Exception as error:
                self._tell("error", sentence_of(error))


def _run_script(client: viser.ClientHandle, source: str) -> None:
    """Runs a line of script in the client's page; it must hold no text from outside."""
    client.gui._websock_interface.queue_message(RunJavascriptMessage(source=source))


def _slot(control: Control) -> str:
    """The name of the control's widget; controls that take turns have one widget."""
    return control.get("slot", control["id"])


def _plot(client: viser.ClientHandle, name: str) -> Any:
    data = (np.array([0.0, 1.0]), np.array([0.0, 0.0]))
    series = (uplot.Series(label="seconds"), uplot.Series(label=name, stroke="#4f9dde", width=2))
    # Seconds since the start, not a date.
    scales = {"x": uplot.Scale(time=False)}
    return client.gui.add_uplot(data, series, scales=scales, aspect=2.0, visible=False)


def _labels(control: Control) -> tuple[str, ...]:
    return tuple(option["label"] for option in control["options"]) or ("",)


def _label_of(control: Control, value: Any) -> str:
    labels = {option["value"]: option["label"] for option in control["options"]}
    return labels.get(value, next(iter(labels.values()), ""))


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns as Markdown; they must hold no text from outside."""
    return "\n".join(["| | |", "|---|---|", *(f"| {left} | {right} |" for left, right in rows)])
