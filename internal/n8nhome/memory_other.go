//go:build !linux

package n8nhome

import "errors"

func memoryFile(string, string) (string, error) { return "", errors.ErrUnsupported }
