"""What files are made of: blocks, extents, pages, leases; and the changes of layout that a reclaim applies."""
