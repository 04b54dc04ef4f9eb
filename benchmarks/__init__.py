"""`make bench`: the speed of this project against other implementations, as records that `audit` walks."""
