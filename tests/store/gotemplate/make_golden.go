// Writes golden.json from cases.json with Go's own text/template:
//
//	go run make_golden.go cases.json > golden.json
//
// Each case is {"template": ..., "data": ...}; what comes out is {"want": text} or {"error": true}.
package main

import (
	"bytes"
	"encoding/json"
	"os"
	"text/template"
)

type testCase struct {
	Template string `json:"template"`
	Data     any    `json:"data"`
	Want     string `json:"want"`
	Error    bool   `json:"error"`
}

// whole turns numbers without a fraction into ints, as data of programs has them.
func whole(value any) any {
	switch v := value.(type) {
	case float64:
		if v == float64(int(v)) {
			return int(v)
		}
	case map[string]any:
		for key, one := range v {
			v[key] = whole(one)
		}
	case []any:
		for i, one := range v {
			v[i] = whole(one)
		}
	}
	return value
}

func main() {
	source, err := os.ReadFile(os.Args[1])
	if err != nil {
		panic(err)
	}
	var cases []testCase
	if err := json.Unmarshal(source, &cases); err != nil {
		panic(err)
	}
	functions := template.FuncMap{"json": func(v any) string {
		text, _ := json.Marshal(v)
		return string(text)
	}}
	for i := range cases {
		one := &cases[i]
		one.Data = whole(one.Data)
		parsed, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(one.Template)
		var out bytes.Buffer
		if err == nil {
			err = parsed.Execute(&out, one.Data)
		}
		one.Want, one.Error = out.String(), err != nil
		if one.Error {
			one.Want = ""
		}
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(cases); err != nil {
		panic(err)
	}
}
