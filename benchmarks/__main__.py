"""Runs every measurement, one after the other, and prints what each prints."""

from benchmarks import budgets, durable, import_time, memory, reservations, speed

speed.main()
print()
durable.main()
print()
reservations.main()
print()
budgets.main()
print()
import_time.main()
print()
memory.main()
