"""The write policy that the settings name."""

from typing import TYPE_CHECKING

from orly.intake.plugin import OnFailure, PluginOptions

if TYPE_CHECKING:
    from orly.settings import Settings

__all__ = ["plugin_options"]


def plugin_options(settings: "Settings") -> PluginOptions | None:
    """How to ask the program; None if there is none."""
    if not settings.write_plugin:
        return None
    from orly.settings import SETTINGS

    return PluginOptions(
        command=settings.write_plugin,
        timeout_s=settings.write_plugin_timeout_s,
        max_in_flight=settings.write_plugin_max_in_flight,
        on_failure=OnFailure(settings.write_plugin_on_failure),
        hidden_variables=tuple(row.env for row in SETTINGS if row.form.is_secret),
    )
