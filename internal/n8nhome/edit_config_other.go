//go:build !linux

package n8nhome

// mountPoint: files are not mounted here.
func mountPoint(string) bool { return false }

// copyAttributes copies nothing.
func copyAttributes(string, string) error { return nil }

// folderWritable is found out by trying.
func folderWritable(string) bool { return true }
