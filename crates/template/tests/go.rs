//! What Go's text/template and sprig do, feature by feature: each row is a template and what it gives for [`DOT`].
//!
//! The rules are those of Go's documentation of `text/template` and `fmt`, and of sprig's manual. What is more lenient here
//! on purpose has no row: `range` over a number (as newer versions of Go), `slice` of a text beside sprig's of a list.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use isobar_template::{Scope, TemplateError, render};
use serde_json::Value;

const DOT: &str = r#"{"a": 1,
  "b": "text",
  "list": [1, 2, 3],
  "empty": [],
  "map": {"z": 1,
  "y": "two",
  "x": {"k": "v"}},
  "t": true,
  "f": false,
  "zero": 0,
  "n": null,
  "es": "",
  "fl": 1.5,
  "html": "<a href=\"x\">'&</a>",
  "neg": -7,
  "uni": "héllo",
  "words": ["b",
  "a"],
  "nested": [{"n": "one"}, {"n": "two"}],
  "big": 1234567}"#;

struct World {
    template: String,
}

impl Scope for World {
    fn provisioner_address(&self) -> Result<String, String> {
        Ok(String::new())
    }

    fn provisioner_url(&self) -> Result<String, String> {
        Ok(String::new())
    }

    fn api_url(&self) -> Result<String, String> {
        Ok(String::new())
    }

    fn param(&self, _name: &str) -> Result<Option<Value>, String> {
        Ok(serde_json::from_str(DOT).unwrap())
    }

    fn template(&self, id: &str) -> Option<String> {
        (id == "t").then(|| self.template.clone())
    }
}

/// Rendered with [`DOT`] as the dot.
fn rendered(template: &str) -> Result<String, TemplateError> {
    let template = template.to_owned();
    let scope: Arc<dyn Scope> = Arc::new(World { template });
    render("test", r#"{{.CallTemplate "t" (.Param "dot")}}"#, &scope)
}

fn check(rows: &[(&str, &str)]) {
    for (template, want) in rows {
        match rendered(template) {
            Ok(got) => assert_eq!(got, *want, "{template}"),
            Err(error) => panic!("{template}: {error}"),
        }
    }
}

#[test]
fn printing_follows_the_verbs() {
    check(&[
        (r#"{{ .b | printf "%s" }}"#, "text"),
        (r#"{{ .b | printf "%s-%s" "x" }}"#, "x-text"),
        (r#"{{ .list | len | printf "%03d" }}"#, "003"),
        (r#"{{ "quoted" | printf "%q" }}"#, r#""quoted""#),
        ("{{ print nil }}", "<nil>"),
        (r#"{{ print 1 2 "a" "b" 3 }}"#, "1 2ab3"),
        (r#"{{ print "a" 1 }} {{ print 1 2 }} {{ print "a" "b" }}"#, "a1 1 2 ab"),
        (r#"{{ println "a" 1 }}"#, "a 1\n"),
        (
            r#"{{ printf "%d %5d %-5d| %05d %x %X %o %b %c %+d" 42 42 42 42 255 255 8 5 65 3 }}"#,
            "42    42 42   | 00042 ff FF 10 101 A +3",
        ),
        (
            r#"{{ printf "%s %10s %-10s| %q %v %.2s" "abc" "abc" "abc" "a\"b" "abc" "abc" }}"#,
            r#"abc        abc abc       | "a\"b" abc ab"#,
        ),
        (
            r#"{{ printf "%f %.2f %8.3f %e %g %v" 1.5 1.5 1.5 1.5 1.5 1.5 }}"#,
            "1.500000 1.50    1.500 1.500000e+00 1.5 1.5",
        ),
        (r#"{{ printf "%t %v" true false }}"#, "true false"),
        (
            r#"{{ printf "%v %v" .list .map }}"#,
            "[1 2 3] map[x:map[k:v] y:two z:1]",
        ),
        (
            r#"{{ printf "%T %T %T %T" 1 "a" 1.5 true }}"#,
            "int string float64 bool",
        ),
        (r#"{{ printf "%d" "a" }}"#, "%!d(string=a)"),
        (r#"{{ printf "%s" 5 }}"#, "%!s(int=5)"),
        (r#"{{ printf "%d" }}"#, "%!d(MISSING)"),
        (r#"{{ printf "x" 1 }}"#, "x%!(EXTRA int=1)"),
        (r#"{{ printf "%%" }}"#, "%"),
        (r#"{{ printf "%z" 1 }}"#, "%!z(int=1)"),
        (r#"{{ printf "%[2]s %[1]s" "a" "b" }}"#, "b a"),
        (r#"{{ printf "%U %#x %#o" 8364 255 8 }}"#, "U+20AC 0xff 010"),
        (r#"{{ printf "%x" "hi" }}"#, "6869"),
        (r#"{{ printf "%5t|%-7t|" true false }}"#, " true|false  |"),
        (r#"{{ printf "%v" nil }}"#, "<nil>"),
        (r#"{{ printf "%s %d" .words .list }}"#, "[b a] [1 2 3]"),
        (r#"{{ printf "%q" .words }}"#, r#"["b" "a"]"#),
        (r#"{{ printf "%08.3f" 3.14159 }}"#, "0003.142"),
        (r#"{{ printf "%+v %#v" .words "x" }}"#, r#"[b a] "x""#),
        (r#"{{ printf "% d" 5 }}"#, " 5"),
        (r#"{{ "<x>" | html | printf "%s" }}"#, "&lt;x&gt;"),
        ("{{ print }}", ""),
        (r#"{{ "a" | print "b" | len }}"#, "2"),
        (r#"{{ .uni | printf "%.2s|%5.1s|%q" .uni }}"#, "hé|    h|%!q(MISSING)"),
        ("{{ print true false }} {{ print 1.5 nil }}", "true false 1.5 <nil>"),
        ("{{ println }}|", "\n|"),
        (r#"{{ (print "x") }}{{ ((1)) }}"#, "x1"),
        ("{{ not true | print }}", "false"),
        ("{{ print `a\nb` }}", "a\nb"),
    ]);
}

#[test]
fn trim_marks_and_comments_take_white_space_away() {
    check(&[
        ("a  {{- 3 }} b", "a3 b"),
        ("a {{ 3 -}}   b", "a 3b"),
        ("a {{- 3 -}} b", "a3b"),
        ("a {{- /* c */ -}} b", "ab"),
        ("{{/* c */}}x", "x"),
        (r#"{{- "a" -}}   {{- "b" -}}"#, "ab"),
        ("x{{ 1 -}}\n y", "x1y"),
        (r#"{{"a" }}{{-3}}"#, "a-3"),
        ("{{ $x := 5 -}}   {{ $x }}", "5"),
        ("{{ range .list -}}\n  {{ . }}\n{{ end }}", "1\n2\n3\n"),
        ("{{ if true }}\n\nx\n{{- end }}|", "\n\nx|"),
        ("{{ 1 -}}{{- 2 }}", "12"),
        (r#"a{{- "" -}}b"#, "ab"),
    ]);
}

#[test]
fn templates_are_defined_and_called() {
    check(&[
        (
            r#"{{ define "x" }}[{{ . }}]{{ end }}{{ template "x" .a }}{{ template "x" "y" }}"#,
            "[1][y]",
        ),
        (
            r#"{{ define "x" }}[{{ . }}]{{ end }}{{ template "x" }}"#,
            "[<no value>]",
        ),
        (r#"{{ block "blk" .a }}<{{ . }}>{{ end }}"#, "<1>"),
        (r#"{{ define "v" }}{{ $ }}{{ end }}{{ template "v" .b }}"#, "text"),
        (
            r#"{{ define "r" }}{{ if gt . 0 }}{{ . }}{{ template "r" (sub . 1) }}{{ end }}{{ end }}{{ template "r" 3 }}"#,
            "321",
        ),
    ]);
}

#[test]
fn loops_go_over_lists_and_maps() {
    check(&[
        ("{{ range .list }}{{ . }},{{ end }}", "1,2,3,"),
        ("{{ range .empty }}x{{ else }}none{{ end }}", "none"),
        ("{{ range $i, $e := .words }}{{ $i }}={{ $e }};{{ end }}", "0=b;1=a;"),
        (
            "{{ range $k, $v := .map }}{{ $k }}={{ $v }};{{ end }}",
            "x=map[k:v];y=two;z=1;",
        ),
        ("{{ range $e := .list }}{{ $e }}{{ end }}", "123"),
        (
            "{{ range .list }}{{ if eq . 2 }}{{ continue }}{{ end }}{{ . }}{{ end }}",
            "13",
        ),
        (
            "{{ range .list }}{{ if eq . 2 }}{{ break }}{{ end }}{{ . }}{{ end }}",
            "1",
        ),
        ("{{ range .n }}x{{ else }}nil{{ end }}", "nil"),
        ("{{ range .nested }}{{ .n }}{{ $.a }} {{ end }}", "one1 two1 "),
        ("{{ $x := 1 }}{{ range .list }}{{ $x = . }}{{ end }}{{ $x }}", "3"),
        (
            "{{ range $i, $_ := .list }}{{ if $i }},{{ end }}{{ $i }}{{ end }}",
            "0,1,2",
        ),
    ]);
}

#[test]
fn variables_live_to_the_end_of_their_block() {
    check(&[
        ("{{ with $x := .a }}{{ $x }}{{ end }}", "1"),
        ("{{ with .map }}{{ .z }}{{ $.a }}{{ end }}", "11"),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}", "2"),
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}", "21"),
        ("{{ $x := .map }}{{ $x.x.k }}", "v"),
        ("{{ $.a }} {{ $.map.x.k }}", "1 v"),
        (
            "{{ with $x := 3 }}{{ $x }}{{ end }}{{ with 0 }}{{ else }}e{{ end }}",
            "3e",
        ),
        (r#"{{ $x := "a" | upper }}{{ $x }}"#, "A"),
        ("{{ $x := .list }}{{ index $x 0 }}{{ len $x }}", "13"),
        ("{{ with .a }}{{ with $.b }}{{ . }}{{ end }}{{ . }}{{ end }}", "text1"),
        ("{{ $a := 1 }}{{ $b := 2 }}{{ $a }}{{ $b }}{{ add $a $b }}", "123"),
    ]);
}

#[test]
fn comparisons_know_their_types() {
    check(&[
        ("{{ eq 1 1 }} {{ eq 1 2 3 1 }} {{ ne 1 2 }}", "true true true"),
        (
            r#"{{ eq .a 1 }} {{ eq .b "text" }} {{ lt 1 2 }} {{ le 2 2 }} {{ gt "b" "a" }} {{ ge 1.5 1.5 }}"#,
            "true true true true true true",
        ),
        ("{{ eq .n nil }}", "true"),
        ("{{ eq true .t }}", "true"),
        ("{{ eq .n .n }}", "true"),
        ("{{ ne .n 1 }}", "true"),
        ("{{ if eq .a 1 2 }}y{{ end }}{{ if (eq .a 1) }}z{{ end }}", "yz"),
        ("{{ 5 | eq 5 }}", "true"),
        (r#"{{ .b | eq "text" | not }}"#, "false"),
        ("{{ ge .big 1000000 }} {{ .big }}", "true 1234567"),
        ("{{ .neg }} {{ lt .neg 0 }}", "-7 true"),
        (r#"{{ eq "a" "b" "a" }} {{ ne "a" "b" }}"#, "true true"),
        (r#"{{ le "a" "b" }} {{ lt 2 10 }} {{ lt "2" "10" }}"#, "true true false"),
        ("{{ eq (len .words) 2 }}", "true"),
    ]);
}

#[test]
fn conditions_ask_for_emptiness() {
    check(&[
        ("{{ with .zero }}yes{{ else }}no {{ .a }}{{ end }}", "no 1"),
        ("{{ if .empty }}yes{{ else }}no{{ end }}", "no"),
        ("{{ if .zero }}a{{ else if .t }}b{{ else }}c{{ end }}", "b"),
        ("{{ if not .f }}y{{ end }}", "y"),
        ("{{ if and .t .a }}y{{ end }}", "y"),
        (
            r#"{{ and 1 0 2 }} {{ or 0 "" "x" "y" }} {{ or 0 "" }} {{ and 1 2 }}"#,
            "0 x  2",
        ),
        ("{{ and .f (index .list 99) }}", "false"),
        ("{{ or .t (index .list 99) }}", "true"),
        (r#"{{ not 0 }} {{ not "x" }}"#, "true false"),
        (
            "{{ with .es }}a{{ else }}b{{ end }}{{ with .map.x }}{{ .k }}{{ end }}",
            "bv",
        ),
        (
            "{{ if .es }}1{{ end }}{{ if .fl }}2{{ end }}{{ if .map }}3{{ end }}{{ if .n }}4{{ end }}",
            "23",
        ),
    ]);
}

#[test]
fn elements_are_reached_by_index_slice_and_len() {
    check(&[
        (
            r#"{{ index .list 1 }} {{ index .map "y" }} {{ index .map "x" "k" }} {{ index .words 0 }}"#,
            "2 two v b",
        ),
        (r#"{{ index .map "none" }}"#, "<no value>"),
        ("{{ index .b 0 }}", "116"),
        ("{{ len .b }} {{ len .list }} {{ len .map }} {{ len .uni }}", "4 3 3 6"),
        ("{{ (index .nested 0).n }}", "one"),
        ("{{ (len .list) | add 1 }}", "4"),
        ("{{ . | len }}", "17"),
        (r#"{{ len "héé" }}"#, "5"),
    ]);
}

#[test]
fn texts_are_escaped_for_where_they_go() {
    check(&[
        ("{{ html .html }}", "&lt;a href=&#34;x&#34;&gt;&#39;&amp;&lt;/a&gt;"),
        (
            r#"{{ js "it's \"x\" <b> \n = &" }}"#,
            r#"it\'s \"x\" \u003Cb\u003E \u000A \u003D \u0026"#,
        ),
        (r#"{{ urlquery "a b&c=d/e?" }}"#, "a+b%26c%3Dd%2Fe%3F"),
        (r#"{{ html "a" 1 }} {{ urlquery "a" "b" }}"#, "a1 ab"),
    ]);
}

#[test]
fn literals_fields_and_pipelines_give_values() {
    check(&[
        ("{{ .n }}", "<no value>"),
        (
            "{{ .list }} {{ .map }} {{ .t }} {{ .fl }}",
            "[1 2 3] map[x:map[k:v] y:two z:1] true 1.5",
        ),
        (r#"{{ `raw "string" \n` }}"#, r#"raw "string" \n"#),
        (r#"{{ "esc\t\"\\ é \x41" }}"#, "esc\t\"\\ é A"),
        ("{{ 'a' }}", "97"),
        (
            "{{ 0x10 }} {{ 010 }} {{ 1e3 }} {{ 1_000 }} {{ 0b101 }} {{ -3 }} {{ +3 }}",
            "16 8 1000 1000 5 -3 3",
        ),
        (
            "{{ 1.0 }} {{ 100000000.0 }} {{ 1e21 }} {{ 1e-7 }} {{ 1.5e300 }}",
            "1 1e+08 1e+21 1e-07 1.5e+300",
        ),
        ("{{ true }} {{ false }}", "true false"),
        ("{{ (.map).z }}", "1"),
        ("{{ .map.x.k | upper }}", "V"),
        ("}} plain {", "}} plain {"),
        (r#"{ {{ "x" }} }"#, "{ x }"),
        (r#"{{ "}}" }}"#, "}}"),
        ("{{ .map.x }} {{ .nested }}", "map[k:v] [map[n:one] map[n:two]]"),
        (r#"{{ "a\nb" }}"#, "a\nb"),
        ("{{ `multi\nline` }}", "multi\nline"),
        ("{{1}}{{2}}", "12"),
    ]);
}

#[test]
fn functions_of_sprig_give_what_its_manual_says() {
    check(&[
        (r#"{{ abbrev 5 "hello world" }} {{ abbrev 20 "short" }}"#, "he... short"),
        (
            "{{ add1f 1.5 }} {{ addf 1.5 2 3 }} {{ subf 5 1.5 }} {{ mulf 2 1.5 }} {{ divf 3 2 }} {{ maxf 1 2.5 }} {{ minf 1 2.5 }}",
            "2.5 6.5 3.5 3 1.5 2.5 1",
        ),
        (r#"{{ adler32sum "hello" }}"#, "103547413"),
        (
            r#"{{ all 1 "a" true }} {{ all 1 0 }} {{ any 0 "" 1 }} {{ any 0 "" }}"#,
            "true false true false",
        ),
        (
            r#"{{ b32enc "hello" }} {{ b32dec "NBSWY3DP" }} {{ b32enc "hi" }} {{ b32dec "NBUQ====" }}"#,
            "NBSWY3DP hello NBUQ==== hi",
        ),
        (
            r#"{{ camelcase "http_server" }} {{ camelcase "foo bar-baz" }}"#,
            "HttpServer FooBarBaz",
        ),
        ("{{ chunk 2 (list 1 2 3) | toJson }}", "[[1,2],[3]]"),
        (
            r#"{{ clean "/a/../b//c/." }} {{ clean "" }} {{ clean "a/../.." }}"#,
            "/b/c . ..",
        ),
        (
            r#"{{ deepCopy (dict "a" 1) | toJson }} {{ deepEqual (list 1 2) (list 1 2) }} {{ deepEqual 1 2 }}"#,
            r#"{"a":1} true false"#,
        ),
        (
            r#"{{ dig "a" "b" "none" (dict "a" (dict "b" 1)) }} {{ dig "a" "x" "none" (dict "a" (dict "b" 1)) }}"#,
            "1 none",
        ),
        (
            r#"{{ ext "/a/b.tar.gz" }} {{ isAbs "/a" }} {{ isAbs "a" }} {{ osBase "/x/y" }} {{ osDir "/x/y" }} {{ osExt "a.b" }} {{ osClean "/a//b" }} {{ osIsAbs "/" }}"#,
            ".gz true false y /x .b /a/b true",
        ),
        (r#"{{ initials "First Second" }}"#, "FS"),
        (
            r#"{{ kebabcase "FirstName" }} {{ snakecase "FirstName" }} {{ snakecase "HTTPServer" }} {{ kebabcase "first_name" }} {{ snakecase "already_snake" }}"#,
            "first-name first_name http_server first-name already_snake",
        ),
        (
            r#"{{ mergeOverwrite (dict "a" 1 "c" (dict "x" 1)) (dict "a" 2 "b" 3 "c" (dict "y" 2)) | toJson }}"#,
            r#"{"a":2,"b":3,"c":{"x":1,"y":2}}"#,
        ),
        (
            r#"{{ mustAppend (list 1) 2 | toJson }} {{ mustFirst (list 3 4) }} {{ mustLast (list 3 4) }} {{ mustRest (list 3 4) | toJson }} {{ mustInitial (list 3 4) | toJson }} {{ mustReverse (list 3 4) | toJson }} {{ mustUniq (list 3 3) | toJson }} {{ mustWithout (list 3 4) 4 | toJson }} {{ mustHas 3 (list 3 4) }} {{ mustCompact (list 0 1 "") | toJson }} {{ mustSlice (list 1 2 3) 1 2 | toJson }} {{ mustPrepend (list 1) 0 | toJson }} {{ mustPush (list 1) 0 | toJson }} {{ push (list 1) 9 | toJson }} {{ mustChunk 2 (list 1 2 3) | toJson }}"#,
            "[1,2] 3 4 [4] [3] [4,3] [3] [3] true [1] [2] [0,1] [1,0] [1,9] [[1,2],[3]]",
        ),
        (
            r#"{{ mustRegexFind "[0-9]+" "a12" }} {{ mustRegexMatch "a" "b" }} {{ mustRegexReplaceAll "a(x*)b" "-ab-axxb-" "${1}W" }} {{ mustRegexReplaceAllLiteral "a(x*)b" "-ab-axxb-" "${1}" }} {{ mustRegexSplit "z+" "pizza" -1 | toJson }} {{ mustRegexFindAll "[2,4]" "12345" -1 | toJson }}"#,
            r#"12 false -W-xxW- -${1}-${1}- ["pi","a"] ["2","4"]"#,
        ),
        (
            r#"{{ mustFromJson "[1]" | first }} {{ mustToJson (list 1) }} {{ mustToPrettyJson (list 1) }} {{ mustToRawJson "<a>" }} {{ toRawJson "<a>&" }}"#,
            "1 [1] [\n  1\n] \"<a>\" \"<a>&\"",
        ),
        (
            r#"{{ mustMerge (dict "a" 1) (dict "a" 2 "b" 1) | toJson }} {{ mustMergeOverwrite (dict "a" 1) (dict "a" 2) | toJson }} {{ mustDeepCopy 5 }}"#,
            r#"{"a":1,"b":1} {"a":2} 5"#,
        ),
        (r#"{{ plural "one" "many" 1 }} {{ plural "one" "many" 2 }}"#, "one many"),
        (r#"{{ regexQuoteMeta "1.2.3 (a)" }}"#, r#"1\.2\.3 \(a\)"#),
        (
            r#"{{ semverCompare ">=1.2.0" "1.3.0" }} {{ semverCompare "^1.2.0" "2.0.0" }} {{ semverCompare "1.2.3" "1.2.3" }} {{ semverCompare ">1.0 <2.0" "v1.5" }} {{ semverCompare "~1.2.0 || >3" "3.1.0" }} {{ (semver "1.2.3-beta.1+x").Minor }}"#,
            "true false true true false 2",
        ),
        (
            "{{ seq 5 }}|{{ seq 2 5 }}|{{ seq 0 2 10 }}|{{ seq 5 1 }}|{{ seq 0 -2 -5 }}|{{ seq 0 }}|{{ seq -2 }}",
            "1 2 3 4 5|2 3 4 5|0 2 4 6 8 10|5 4 3 2 1|0 -2 -4|1 0|1 0 -1 -2",
        ),
        (r#"{{ (splitn "$" 2 "foo$bar$baz")._1 }}"#, "bar$baz"),
        (r#"{{ swapcase "Ab c" }}"#, "aB C"),
        (r#"{{ toDecimal "0777" }} {{ toDecimal "755" }}"#, "511 493"),
        (
            r#"{{ typeIs "string" "x" }} {{ typeIs "int" 1 }} {{ typeIsLike "string" "x" }} {{ typeOf 1 }} {{ typeOf "x" }} {{ typeOf 1.5 }} {{ kindOf (dict) }} {{ kindIs "slice" (list) }}"#,
            "true true true int string float64 map true",
        ),
        (
            r#"{{ urlJoin (dict "scheme" "http" "host" "h:1" "path" "/p" "query" "q=1" "fragment" "f") }} {{ (urlParse "http://u:p@h:8/p?q=1#f").host }} {{ (urlParse "http://u:p@h:8/p?q=1#f").query }}"#,
            "http://h:1/p?q=1#f h:8 q=1",
        ),
        (
            r#"{{ wrap 5 "aaa bbb cc dd" }}|{{ wrapWith 5 "\t" "Hello World longword" }}"#,
            "aaa\nbbb\ncc dd|Hello\tWorld\tlongw\tord",
        ),
        (r#"{{ trimall "$" "$5.00$" }} {{ trimAll "-" "-a-" }}"#, "5.00 a"),
        (
            r#"{{ add 1 "2" }} {{ sub 1 3 }} {{ mul 2 3 4 }} {{ div 7 2 }} {{ mod 7 3 }} {{ add1 4 }} {{ max 1 3 2 }} {{ min 4 2 }} {{ floor 1.7 }} {{ ceil 1.2 }} {{ round 1.255 2 }} {{ biggest 1 9 }}"#,
            "3 -2 24 3 1 5 3 2 1 2 1.25 9",
        ),
        (
            r#"{{ int "12" }} {{ int64 "x" }} {{ float64 "1.5" }} {{ atoi "7" }} {{ toString 1.5 }} {{ toStrings (list 1 2) | toJson }}"#,
            r#"12 0 1.5 7 1.5 ["1","2"]"#,
        ),
        (
            r#"{{ join "," (list "a" "b") }} {{ join "-" (list 1 2) }} {{ split "," "a,b" | toJson }} {{ splitList "," "a,b" | toJson }} {{ sortAlpha (list "b" "a") | toJson }}"#,
            r#"a,b 1-2 {"_0":"a","_1":"b"} ["a","b"] ["a","b"]"#,
        ),
        (
            r#"{{ contains "b" "abc" }} {{ hasPrefix "a" "abc" }} {{ hasSuffix "c" "abc" }} {{ quote "a\"b" 1 }} {{ squote "a" "b" }} {{ cat "a" 1 "b" }} {{ indent 2 "a\nb" }}{{ nindent 2 "a" }} {{ replace "a" "b" "aaa" }} {{ nospace " a b " }} {{ trunc 2 "abc" }} {{ trunc -2 "abc" }} {{ substr 1 2 "abc" }} {{ substr 1 -1 "abc" }} {{ title "ab cd" }} {{ untitle "Ab Cd" }} {{ repeat 2 "ab" }} {{ initial (list 1 2) | toJson }} "#,
            "true true true \"a\\\"b\" \"1\" 'a' 'b' a 1 b   a\n  b\n  a bbb ab ab bc b bc Ab Cd ab cd abab [1] ",
        ),
        (
            r#"{{ default "d" "" }} {{ default "d" "x" }} {{ default 5 0 }} {{ empty 0 }} {{ empty (dict) }} {{ coalesce 0 "" 3 }} {{ ternary "a" "b" true }} {{ compact (list 1 0 "a" "") | toJson }} {{ list 1 2 | has 2 }} {{ without (list 1 2 3) 2 | toJson }} {{ concat (list 1) (list 2) | toJson }} {{ first (list) }} {{ last (list 1 2) }} {{ until 3 }} {{ untilStep 0 10 3 }} {{ prepend (list 1) 0 }}"#,
            r#"d x 5 true true 3 a [1,"a"] true [1,3] [1,2] <no value> 2 [0 1 2] [0 3 6 9] [0 1]"#,
        ),
        (
            r#"{{ dict "a" 1 | toJson }} {{ get (dict "a" 1) "b" | quote }} {{ hasKey (dict "a" 1) "a" }} {{ keys (dict "a" 1) }} {{ values (dict "a" 1) }} {{ pick (dict "a" 1 "b" 2) "a" }} {{ omit (dict "a" 1 "b" 2) "a" }} {{ pluck "a" (dict "a" 1) (dict "a" 2) (dict "b" 3) }} {{ merge (dict "a" 1) (dict "a" 2 "b" 3) }} {{ set (dict "a" 1) "b" 2 }} {{ unset (dict "a" 1) "a" }}"#,
            r#"{"a":1} "" true [a] [1] map[a:1] map[b:2] [1 2] map[a:1 b:3] map[a:1 b:2] map[]"#,
        ),
        (
            r#"{{ regexMatch "^a.c$" "abc" }} {{ regexFindAll "a." "abac" -1 }} {{ regexFind "z" "a" | quote }} {{ regexReplaceAll "a" "banana" "o" }} {{ regexSplit "a" "banana" 2 | toJson }} {{ regexReplaceAllLiteral "a" "banana" "${1}" }}"#,
            r#"true [ab ac] "" bonono ["b","nana"] b${1}n${1}n${1}"#,
        ),
        ("{{ range $i, $e := until 3 }}{{ $i }}{{ $e }} {{ end }}", "00 11 22 "),
    ]);
}

#[test]
fn what_go_refuses_is_refused_with_a_reason() {
    for (template, want) in [
        ("{{ $y }}", "template t, line 1: undefined variable: $y"),
        (
            "{{ if true }}{{ $q := 1 }}{{ end }}{{ $q }}",
            "template t, line 1: undefined variable: $q",
        ),
        (
            r#"{{ eq 1 "1" }}"#,
            "template t, line 1: incompatible types for comparison: int and string",
        ),
        (
            "{{ eq 1 1.0 }}",
            "template t, line 1: incompatible types for comparison: int and float64",
        ),
        (
            r#"{{ lt 1 "a" }}"#,
            "template t, line 1: incompatible types for comparison: int and string",
        ),
        (
            "{{ lt 1 1.5 }}",
            "template t, line 1: incompatible types for comparison: int and float64",
        ),
        ("{{ eq .list .list }}", "template t, line 1: non-comparable type list"),
        (
            "{{ eq .map 1 }}",
            "template t, line 1: incompatible types for comparison: map and int",
        ),
        ("{{ lt true false }}", "template t, line 1: invalid type for comparison"),
        (
            "{{ eq 1 }}",
            "template t, line 1: wrong number of arguments: eq expects 2, got 1",
        ),
        (
            "{{ eq }}",
            "template t, line 1: wrong number of arguments: eq expects 2, got 0",
        ),
        (
            "{{ and .t (index .list 99) }}",
            "template t, line 1: index out of range: 99",
        ),
        ("{{ .missing }}", "template t, line 1: there is no .missing"),
        ("{{ .map.missing }}", "template t, line 1: there is no .map.missing"),
        (
            "{{ .b.missing }}",
            "template t, line 1: can't evaluate field missing in .b, which is of type string",
        ),
        ("{{ .n.x }}", "template t, line 1: .n is nil: it has no x"),
        (
            "{{ .a.b }}",
            "template t, line 1: can't evaluate field b in .a, which is of type int",
        ),
        ("{{ nil }}", "template t, line 1: nil is not a command"),
        ("{{ index .list 3 }}", "template t, line 1: index out of range: 3"),
        ("{{ index .list -1 }}", "template t, line 1: index out of range: -1"),
        (
            r#"{{ index .list "a" }}"#,
            "template t, line 1: cannot index list with type string",
        ),
        ("{{ index .n 0 }}", "template t, line 1: index of untyped nil"),
        ("{{ index .a 0 }}", "template t, line 1: cannot index type int"),
        (
            "{{ slice .b 3 1 }}",
            "template t, line 1: slice: string index out of range [3:1] with length 4",
        ),
        (
            "{{ slice .b 0 99 }}",
            "template t, line 1: slice: string index out of range [0:99] with length 4",
        ),
        ("{{ slice .map 0 }}", "template t, line 1: slice: cannot slice type map"),
        ("{{ len 3 }}", "template t, line 1: len: cannot take length of 3"),
        ("{{ len .n }}", "template t, line 1: len: cannot take length of <nil>"),
        (
            r#"{{ define "x" }}1{{ end }}{{ define "x" }}2{{ end }}{{ template "x" }}"#,
            r#"template t, line 1: multiple definition of template "x""#,
        ),
        (r#"{{ template "gone" }}"#, "template t: there is no template gone"),
        (
            r#"{{ $v := 1 }}{{ define "w" }}{{ $v }}{{ end }}{{ template "w" }}"#,
            "template t, line 1: undefined variable: $v",
        ),
        (r#"{{ | "a" }}"#, "template t, line 1: empty command"),
        ("{{ if }}x{{ end }}", "template t, line 1: empty command"),
        ("{{ range }}{{ end }}", "template t, line 1: empty command"),
        (
            "{{ end }}",
            "template t: {{if}}, {{range}}, {{with}} or {{define}} and {{end}} do not match up",
        ),
        (
            "{{ if .a }}",
            "template t: {{if}}, {{range}}, {{with}} or {{define}} and {{end}} do not match up",
        ),
        (
            "{{ else }}",
            "template t: {{if}}, {{range}}, {{with}} or {{define}} and {{end}} do not match up",
        ),
        ("{{ nofunc 1 }}", "template t, line 1: function nofunc is not known"),
        ("{{ .a", "template t, line 1: unexpected character: '{'"),
        (r#"{{ "unclosed }}"#, "template t, line 1: unterminated string"),
        ("{{ 'ab' }}", "template t, line 1: unterminated character literal"),
        ("{{ $ }}{{/* unclosed", "template t, line 1: unclosed comment"),
        ("{{ template x }}", "template t, line 1: template expects a string name"),
        (
            "{{ define x }}{{ end }}",
            "template t, line 1: define expects a string name",
        ),
        ("{{ break }}", "template t: unexpected break outside of range"),
        ("{{ continue }}", "template t: unexpected continue outside of range"),
        (
            "{{ 1 | 2 }}",
            "template t, line 1: can't give argument to non-function <number>",
        ),
        (
            "{{ .a .b }}",
            "template t, line 1: can't give argument to non-function <field>",
        ),
        (
            r#"{{ "x" 1 }}"#,
            "template t, line 1: can't give argument to non-function <string>",
        ),
        (
            "{{ len 1 2 }}",
            "template t, line 1: wrong number of arguments: len expects 1, got 2",
        ),
        (
            "{{ .list.foo }}",
            "template t, line 1: can't evaluate field foo in .list, which is of type []interface {}",
        ),
        ("{{ $x = 1 }}", "template t, line 1: undefined variable: $x"),
        (
            "{{ $x, $y := .list }}",
            "template t, line 1: cannot assign 2 variables outside a range pipeline",
        ),
        (
            "{{ if true }}{{ else }}{{ else }}{{ end }}",
            "template t, line 1: unexpected token: Else",
        ),
        (
            "{{ (1 }}",
            r#"template t, line 1: expected RightParen, got RightDelim ("")"#,
        ),
        (
            "{{ 1) }}",
            r#"template t, line 1: expected closing delimiter, got RightParen (")")"#,
        ),
        (
            "{{ range $i, $e, $f := .list }}{{ end }}",
            "template t, line 1: too many declarations in range",
        ),
        (
            "{{ call .b }}",
            "template t, line 1: call: non-function value of type string",
        ),
        (
            "{{ printf }}",
            "template t, line 1: printf: wrong number of arguments: printf expects 1, got 0",
        ),
        (
            r#"{{ range "abc" }}{{ . }}{{ end }}"#,
            "template t, line 1: cannot range over string",
        ),
        (
            "{{ range true }}{{ end }}",
            "template t, line 1: cannot range over bool",
        ),
        ("{{ {{ }}", "template t, line 1: unexpected character: '{'"),
        (
            "{{/* a */ 1 }}",
            "template t, line 1: comment not terminated by closing delimiter",
        ),
        (
            "{{ and }}",
            "template t, line 1: wrong number of arguments: and expects 1, got 0",
        ),
        (
            "{{ not }}",
            "template t, line 1: wrong number of arguments: not expects 1, got 0",
        ),
        (
            r#"{{ slice "héllo" 0 2 | printf "%q" }}"#,
            "template t, line 1: slice: index not on UTF-8 character boundary",
        ),
        ("{{ eq .words .list }}", "template t, line 1: non-comparable type list"),
        (
            "{{ .map.x.k.z }}",
            "template t, line 1: can't evaluate field z in .map.x.k, which is of type string",
        ),
        (
            "{{ 9223372036854775807 }} {{ 9223372036854775808 }}",
            "template t, line 1: 9223372036854775808 overflows int",
        ),
    ] {
        let error = rendered(template).expect_err(template);
        assert_eq!(error.message, format!(".CallTemplate: {want}"), "{template}");
    }
}
