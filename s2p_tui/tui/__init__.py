"""Everything that is drawn: widgets, screens, and the pure functions behind them."""
