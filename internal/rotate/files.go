package rotate

// stagedPath is where the new content of a file waits beside it.
func stagedPath(path, id string) string { return path + ".n8keep-" + id }
