"""Pure numbers: estimators, controllers and calendars. No domain states, no I/O."""
