//go:build !failpoint

package failpoint

// Hit marks a point; it does nothing in this build.
func Hit(string) {}
