"""From records to tables, verdicts and figures. Never trains; a number without a record is not shown."""
