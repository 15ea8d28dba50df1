//go:build !failpoint

package failpoint

// Enabled says whether this is a build in which [Hit] does something.
const Enabled = false

// Hit marks a point; it does nothing in this build.
func Hit(string) {}
