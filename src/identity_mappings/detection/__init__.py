"""Faster R-CNN with the networks of he2015 as its backbone (Section 4.3 and Appendix A; Tables 7 and 8)."""
