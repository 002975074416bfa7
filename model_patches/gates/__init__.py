"""(time, intent, settings) -> weight. Plain numbers, no torch."""
