//go:build failpoint

package rotate

// withFailpoints: this test binary has them, and needs no other.
const withFailpoints = true
