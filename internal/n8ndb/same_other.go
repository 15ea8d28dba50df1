//go:build !linux

package n8ndb

func birth(string) string { return "" }
