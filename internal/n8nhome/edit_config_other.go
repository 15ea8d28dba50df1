//go:build !linux

package n8nhome

import "os"

// mountPoint: files are not mounted here.
func mountPoint(string) bool { return false }

// immutable is found out by trying.
func immutable(string) bool { return false }

// copyAttributes copies nothing.
func copyAttributes(_, _ *os.File) error { return nil }

// folderWritable is found out by trying.
func folderWritable(string) bool { return true }
