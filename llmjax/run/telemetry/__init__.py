"""What a run reports about itself: throughput, sinks, display."""
