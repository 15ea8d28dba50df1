package config

import (
	"iter"
	"reflect"
	"strings"

	"github.com/n8keep/n8keep/internal/secret"
)

// Field is one setting, for manuals and tests.
type Field struct {
	Path    string // "instances.NAME.n8n_dir"
	Flag    string // "n8n-dir": the flag that says the same; "" for groups and where there is none
	Example string // a value, as written in the file
	Struct  string // "Instance.N8NDir": where its doc comment is
	List    bool   // the setting is a list; its flag may be given several times
	Group   bool   // it only holds other settings
}

// Fields is every setting in the order of the manual, groups before their members.
func Fields() []Field {
	var all []Field
	var walk func(t reflect.Type, at string) (any bool)
	walk = func(t reflect.Type, at string) (any bool) {
		for f := range fields(t) {
			any = true
			path := join(at, f.Tag.Get("yaml"))
			this := len(all)
			all = append(all, Field{
				Path:    path,
				Flag:    f.Tag.Get("flag"),
				Example: f.Tag.Get("example"),
				Struct:  t.Name() + "." + f.Name,
				List:    f.Type.Kind() == reflect.Slice,
			})
			switch f.Type.Kind() {
			case reflect.Map:
				all[this].Group = walk(f.Type.Elem(), join(path, "NAME"))
			case reflect.Struct:
				all[this].Group = walk(f.Type, path)
			}
		}
		return any
	}
	walk(reflect.TypeFor[Config](), "")
	return all
}

// Redact returns a copy to print: what looks like a secret, although [Parse]
// would have refused it, is replaced. References stay: they are no secrets.
func (c Config) Redact() Config {
	return redact(reflect.ValueOf(c)).Interface().(Config)
}

func redact(v reflect.Value) reflect.Value {
	out := reflect.New(v.Type()).Elem()
	out.Set(v)
	switch x := v.Interface().(type) {
	case Reference:
		if looksSecret(x.name) {
			x.name = secret.Redacted
		}
		return reflect.ValueOf(x)
	case Address:
		if looksSecret(x.plain) {
			x.plain = secret.Redacted
		}
		return reflect.ValueOf(x)
	}
	switch v.Kind() {
	case reflect.String:
		if looksSecret(v.String()) && !signer.MatchString(v.String()) {
			out.SetString(secret.Redacted)
		}
	case reflect.Struct:
		for f := range fields(v.Type()) {
			out.FieldByIndex(f.Index).Set(redact(v.FieldByIndex(f.Index)))
		}
	case reflect.Map:
		if !v.IsNil() {
			out.Set(reflect.MakeMap(v.Type()))
			for k, item := range v.Seq2() {
				out.SetMapIndex(k, redact(item))
			}
		}
	case reflect.Slice:
		if !v.IsNil() {
			out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
			for i := range v.Len() {
				out.Index(i).Set(redact(v.Index(i)))
			}
		}
	}
	return out
}

// fields are those of t that stand in the file.
func fields(t reflect.Type) iter.Seq[reflect.StructField] {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() && f.Tag.Get("yaml") != "-" && !yield(f) {
				return
			}
		}
	}
}

func fieldByKey(t reflect.Type, key string) (reflect.StructField, bool) {
	for f := range fields(t) {
		if f.Tag.Get("yaml") == key {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func join(at, key string) string { return strings.TrimPrefix(at+"."+key, ".") }
