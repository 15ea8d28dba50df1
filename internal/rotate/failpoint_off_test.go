//go:build !failpoint

package rotate

const withFailpoints = false
