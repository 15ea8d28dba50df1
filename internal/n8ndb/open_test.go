package n8ndb

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// TestOneDecryptingFunction walks the whole module: nothing but the method open
// mentions a decrypting function of n8ncrypt.
func TestOneDecryptingFunction(t *testing.T) {
	root := filepath.Join("..", "..")
	files, allowed := 0, 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() {
			if name := d.Name(); rel == "n8ncrypt" || name == "testdata" || name == "node_modules" || strings.HasPrefix(name, ".") && rel != "." {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		files++
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			name := ""
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv != nil {
				name = f.Name.Name
			}
			for _, sel := range decrypting(file, decl) {
				if filepath.ToSlash(rel) == "internal/n8ndb/open.go" && name == "open" {
					allowed++
					continue
				}
				t.Errorf("%s: %s decrypts n8n data outside n8ndb's open", set.Position(sel.Pos()), sel.Sel.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 || allowed != 3 {
		t.Errorf("looked at %d files, found %d uses in open; the test no longer sees what it should", files, allowed)
	}
}

// decrypting are the selectors in a declaration that name a decrypting function or
// method of n8ncrypt, called or not.
func decrypting(file *ast.File, decl ast.Node) []*ast.SelectorExpr {
	packages := map[string]string{}
	for _, i := range file.Imports {
		path := strings.Trim(i.Path.Value, `"`)
		name := path[strings.LastIndex(path, "/")+1:]
		if i.Name != nil {
			name = i.Name.Name
		}
		packages[name] = path
	}
	var found []*ast.SelectorExpr
	ast.Inspect(decl, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if ok {
			// An error's Unwrap takes no arguments, n8ncrypt's takes one.
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Unwrap" && len(call.Args) == 0 {
				return false
			}
		}
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		switch sel.Sel.Name {
		case "Decrypt", "DecryptCBC", "DecryptCBCEncoding", "Unwrap", "UnwrapDataKey", "UnwrapLegacyKey":
		default:
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && packages[x.Name] != "" && !strings.HasSuffix(packages[x.Name], "/n8ncrypt") {
			return true // age.Decrypt, errors.Unwrap
		}
		found = append(found, sel)
		return true
	})
	return found
}

func TestNothingOpensWithoutReceipt(t *testing.T) {
	key, err := n8ncrypt.NewInstanceKey("n8n-test-key-0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	k := &Keyset{keys: n8ncrypt.Keys{Instance: key}}
	for _, as := range []role{aValue, aDataKey, aLegacyKey} {
		o, err := k.open(audit.Receipt{}, sealed{as: as, id: "x", stored: sampleCBC, shape: n8ncrypt.ShapeText})
		if err == nil || o.plaintext != nil || err.Error() != "no secret is opened before the audit event of the command is recorded" {
			t.Errorf("opening %d without a receipt: %v", as, err)
		}
	}
}
