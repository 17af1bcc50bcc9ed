"""What a trial is measured by. numpy only; docs/protocol.md says how every number is computed."""
