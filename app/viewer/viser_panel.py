"""The panel of viser's page: the same controls as on the light page, drawn with viser's widgets."""

import json
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import viser
from viser import uplot
from viser._messages import RunJavascriptMessage

from lumigraph.app.viewer.controls import COMPARE, KEYS, LOOK, MAKE, Control
from lumigraph.app.viewer.errors import sentence_of
from lumigraph.app.viewer.gate import Role
from lumigraph.app.viewer.protocol import Scalar

SCRIPT = (
    "const s = document.createElement('script'); s.type = 'module'; s.src = '/static/full.js';"
    "document.head.append(s);"
)
"""Puts our part of the page into viser's; what it loads is a file of ours, of the same server."""

PLOTS = {
    "Loss": ("seconds", "loss"),
    "PSNR, dB": ("psnr_seconds", "psnr"),
    "Splats": ("seconds", "splats"),
}

READING_SECONDS = 8.0
"""That a note which is no error stays: it lies over the picture."""

DIGITS = 6
"""After the point, of a number that may have some."""

NUMBERS, HELP = "Numbers", "Keys"

HANDS = {
    "Drag": "turn about the scene",
    "Right drag": "shift",
    "Wheel": "nearer and farther",
    "W A S D, Q E": "fly ahead, left, back, right, down, up",
    "Arrows": "turn",
    "Ctrl K": "find a command by its name",
}
"""What viser itself does."""


class Desk(Protocol):
    """What a panel steers."""

    def controls(self) -> list[Control]:
        """All controls as they are now."""
        ...

    def state(self) -> dict[str, Any]:
        """What is going on, as plain data."""
        ...

    def do(self, id: str, value: Scalar) -> None:
        """A control of the desk was used."""
        ...


class Panel:
    """The panel of one client of viser's page.

    Attributes:
        client: Whose it is.
        desk: What its controls steer, if the client has the role to.
        role: Of the client; who only looks has the controls of the page alone.
    """

    def __init__(self, client: viser.ClientHandle, desk: Desk, role: Role) -> None:
        self.client, self.desk, self.role = client, desk, role
        self._widgets: dict[str, Any] = {}
        self._drawn: dict[str, Control] = {}
        self._beside: dict[str, Any] = {}  # words before a bar, or after what cannot be used
        self._settings: dict[str, Any] = {}  # of the page
        self._noted = 0
        self._home: dict[str, Any] | None = None
        _run_script(client, SCRIPT)
        tabs = client.gui.add_tab_group()
        names = (MAKE, LOOK, COMPARE, NUMBERS, HELP)
        self._tabs = {name: tabs.add_tab(name) for name in names}
        with self._tabs[NUMBERS]:
            self._numbers = client.gui.add_markdown("")
            self._plots = {name: _plot(client, name) for name in PLOTS}
        self.refresh(first=True)
        # Below the tabs: a tab has no widgets before it is looked at, and full.js sets this one.
        dark = client.gui.add_checkbox("Dark", False)
        dark.on_update(lambda event: self._paint(dark.value))
        commands = [self._command(use) for use in KEYS]
        with self._tabs[HELP]:
            client.gui.add_markdown(_table([*HANDS.items(), *commands]))

    def refresh(self, *, first: bool = False) -> None:
        """Brings the widgets to where the desk is now.

        Args:
            first: Nobody was here before: of the notes only the last error is shown, since they
                lie over the picture.
        """
        state = self.desk.state()
        controls = {_slot(control): control for control in self.desk.controls()}
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
        self._arrive((state.get("shown") or {}).get("home"))
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
        """Makes the control's widget, or sets what has changed of it."""
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
        # What the page itself sets is the page's; only the desk's values come from here.
        if control["where"] == "desk" and "value" in control:
            if control["kind"] == "choice":
                labels = _labels(control)
                if tuple(widget.options) != tuple(labels):
                    widget.options = tuple(labels)
                widget.value = _label_of(control, control["value"])
            else:
                widget.value = control["value"]

    def _order(self, name: str, order: int) -> None:
        """Has a widget stand at that place among all, what explains it beside."""
        self._widgets[name].order = float(order)
        if words := self._beside.get(name):
            words.order = order - 0.5 if self._drawn[name]["kind"] == "progress" else order + 0.5

    def _enable(self, control: Control) -> None:
        """Greys the control's widget where it would do nothing."""
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
        """Shows a note, as text."""
        title, color = ("Error", "red") if kind == "error" else ("Note", "blue")
        seconds = None if kind == "error" else READING_SECONDS
        self.client.add_notification(title, text, color=color, auto_close_seconds=seconds)

    def _arrive(self, home: dict[str, Any] | None) -> None:
        """Shows what the page sets by itself when it comes to another scene."""
        if home is None or home == self._home:
            return
        self._home = home
        self._widgets["fov"].value = round(math.degrees(home["fov"]))
        self._widgets["up"].value = _label_of(self._drawn["up"], "scene")

    def _paint(self, dark: bool) -> None:
        """Has the page light or dark."""
        self.client.gui.configure_theme(dark_mode=dark, show_share_button=False)

    def _command(self, use: dict[str, str]) -> tuple[str, str]:
        """Makes a key of viser's page that uses a control; returns it and what it does."""
        control, value = self._drawn[use["id"]], use.get("value")
        label = control["label"]
        if value is not None:
            label = f"{label}: {_label_of(control, value)}"
        key: Any = use["key"] if len(use["key"]) == 1 else use["key"].lower()
        command = self.client.gui.add_command(label, hotkey=key)
        command.on_trigger(lambda event: self._press(control, value))
        return use["key"], label

    def _press(self, control: Control, value: str | None) -> None:
        """Uses a control as if by hand: sets it, turns a check, or takes the next of a choice."""
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
        """Somebody used the widget: tells the desk, or has the page do it."""
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
                self.desk.do(latest["id"], value)
            except Exception as error:
                self._tell("error", sentence_of(error))


def _run_script(client: viser.ClientHandle, source: str) -> None:
    """Has the client's page run a line of script, which must hold no text of anybody else's."""
    client.gui._websock_interface.queue_message(RunJavascriptMessage(source=source))


def _slot(control: Control) -> str:
    """What names the control's widget: that of another one if they take turns."""
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
    """Two columns as Markdown; no text that came from outside may be in it."""
    return "\n".join(["| | |", "|---|---|", *(f"| {left} | {right} |" for left, right in rows)])
