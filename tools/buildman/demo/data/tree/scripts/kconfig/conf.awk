# SPDX-License-Identifier: GPL-2.0+
# Usage: awk -f conf.awk -v srctree=DIR -v user=FILE [-v silent=1] [-v sync=1]
#            [-v save=FILE]
#
# Turns Kconfig files and the settings in FILE into .config; with sync=1 makes
# include/config/auto.conf, auto.conf.cmd and include/generated/autoconf.h too,
# with save=FILE it writes what differs from the defaults instead.
#
# It knows the part of the Kconfig language that the sample tree uses: config,
# bool, string, int, hex, prompts, default, depends on, select, if, choice,
# source, menu and help. Conditions are SYMBOL and !SYMBOL joined with &&.

function die(text) {
	print text > "/dev/stderr"
	failed = 1
	exit 1
}

function both(a, b) {
	return a == "" ? b : (b == "" ? a : a " && " b)
}

function holds(cond,    term, n, i, neg) {
	if (cond == "")
		return 1
	n = split(cond, term, /[ \t]*&&[ \t]*/)
	for (i = 1; i <= n; i++) {
		neg = sub(/^!/, "", term[i])
		if ((term[i] == "y" || val[term[i]] == "y") == neg)
			return 0
	}
	return 1
}

# Split 'VALUE if COND'; leaves the parts in rest_val and rest_cond
function value_if(text,    at) {
	rest_cond = ""
	at = match(text, /[ \t]if[ \t]+/)
	if (at) {
		rest_cond = substr(text, at + RLENGTH)
		text = substr(text, 1, at - 1)
	}
	rest_val = text
}

function unquote(text) {
	return text ~ /^".*"$/ ? substr(text, 2, length(text) - 2) : text
}

function parse(name, dep,    path, line, no, word, rest, cur, node, help, depth, ifs, got) {
	path = srctree "/" name
	no = 0
	depth = 0
	help = -1
	ifs[0] = dep
	while ((got = (getline line < path)) > 0) {
		no++
		if (line ~ /^[ \t]*$/)
			continue
		match(line, /^[ \t]*/)
		rest = substr(line, 1, RLENGTH)
		gsub(/\t/, "        ", rest)
		if (help == 0)
			help = length(rest)
		if (help > 0 && length(rest) >= help)
			continue
		help = -1
		sub(/^[ \t]+/, "", line)
		if (line ~ /^#/)
			continue
		word = line
		sub(/[ \t].*/, "", word)
		rest = substr(line, length(word) + 1)
		sub(/^[ \t]+/, "", rest)
		if (word == "source")
			parse(unquote(rest), ifs[depth])
		else if (word == "if") {
			depth++
			ifs[depth] = both(ifs[depth - 1], rest)
		} else if (word == "endif")
			depth--
		else if (word == "choice") {
			choice = ++nchoices
			choice_dep[choice] = ifs[depth]
			cur = ""
		} else if (word == "endchoice")
			choice = 0
		else if (word == "optional")
			choice_optional[choice] = 1
		else if (word == "config" || word == "menuconfig") {
			cur = rest
			node = ++nnodes
			node_dep[node] = ifs[depth]
			if (!(cur in seen)) {
				seen[cur] = 1
				order[++nsyms] = cur
				type[cur] = "bool"
			}
			if (choice) {
				in_choice[cur] = choice
				members[choice] = members[choice] " " cur
			}
		} else if (word == "prompt")
			continue
		else if (word == "bool" || word == "string" || word == "int" || word == "hex") {
			type[cur] = word
			if (rest != "")
				prompts[cur] = prompts[cur] " " node
		} else if (word == "depends") {
			sub(/^on[ \t]+/, "", rest)
			if (cur == "" && choice)
				choice_dep[choice] = both(choice_dep[choice], rest)
			else
				node_dep[node] = both(node_dep[node], rest)
		} else if (word == "default" && cur == "" && choice)
			choice_default[choice] = rest
		else if (word == "default" || word == "def_bool") {
			value_if(rest)
			ndefaults[cur]++
			def_val[cur, ndefaults[cur]] = rest_val
			def_cond[cur, ndefaults[cur]] = rest_cond
			def_node[cur, ndefaults[cur]] = node
		} else if (word == "select") {
			value_if(rest)
			nselects++
			sel_from[nselects] = cur
			sel_to[nselects] = rest_val
			sel_cond[nselects] = rest_cond
			sel_node[nselects] = node
		} else if (word == "help")
			help = 0
		else if (word != "mainmenu" && word != "menu" && word != "endmenu" && word != "comment")
			die(name ":" no ": syntax error: unknown statement \"" word "\"")
	}
	if (got < 0)
		die("can't open file \"" name "\"")
	close(path)
	files[++nfiles] = name
}

function set_user(sym, value, path) {
	if (sym in user_val)
		print (nincluded ? "generated_defconfig:" nread : path ":" nread) \
			":warning: override: reassigning to symbol " sym > "/dev/stderr"
	user_val[sym] = value
	user_at[sym] = ++nuser
}

# nread counts lines as if the files that are included were put in their place, as
# U-Boot does it, into generated_defconfig
function read_user(path,    line, no, sym, got) {
	no = 0
	while ((got = (getline line < path)) > 0) {
		no++
		nread++
		if (line ~ /^CONFIG_[A-Za-z0-9_]+=/) {
			sym = substr(line, 8, index(line, "=") - 8)
			set_user(sym, substr(line, index(line, "=") + 1), path)
		} else if (line ~ /^# CONFIG_[A-Za-z0-9_]+ is not set$/) {
			sym = substr(line, 10)
			sub(/ .*/, "", sym)
			set_user(sym, "n", path)
		} else if (line ~ /^#include[ \t]+[<"]/) {
			sub(/^#include[ \t]+[<"]/, "", line)
			sub(/[>"].*/, "", line)
			nincluded++
			read_user(srctree "/" line)
		} else if (line !~ /^#/ && line !~ /^[ \t]*$/)
			print path ":" no ":warning: unexpected data: " line > "/dev/stderr"
	}
	if (got < 0)
		die("can't open file \"" path "\"")
	close(path)
}

function is_visible(sym,    node, n, i) {
	n = split(prompts[sym], node, " ")
	for (i = 1; i <= n; i++)
		if (holds(node_dep[node[i]]))
			return 1
	return 0
}

# The member of a choice that is on: the last one set, else the default
function chosen(number,    member, n, i, best, at) {
	if (!holds(choice_dep[number]))
		return ""
	at = 0
	n = split(members[number], member, " ")
	for (i = 1; i <= n; i++)
		if (user_val[member[i]] == "y" && user_at[member[i]] > at && is_visible(member[i])) {
			best = member[i]
			at = user_at[best]
		}
	if (best == "" && !choice_optional[number])
		best = choice_default[number] == "" ? member[1] : choice_default[number]
	return best
}

function default_of(sym,    i) {
	for (i = 1; i <= ndefaults[sym]; i++)
		if (holds(node_dep[def_node[sym, i]]) && holds(def_cond[sym, i])) {
			has_default = 1
			if (type[sym] == "bool")
				return def_val[sym, i] == "n" ? "n" : (holds(def_val[sym, i]) ? "y" : "n")
			return def_val[sym, i]
		}
	has_default = 0
	return type[sym] == "bool" ? "n" : (type[sym] == "string" ? "\"\"" : "")
}

function evaluate(    pass, i, sym, new, changed, forced) {
	for (pass = 1; pass <= 20; pass++) {
		changed = 0
		split("", forced)
		for (i = 1; i <= nselects; i++)
			if (val[sel_from[i]] == "y" && holds(sel_cond[i]) && holds(node_dep[sel_node[i]]))
				forced[sel_to[i]] = 1
		for (i = 1; i <= nsyms; i++) {
			sym = order[i]
			new = default_of(sym)
			written[sym] = has_default
			if (is_visible(sym)) {
				written[sym] = 1
				if (sym in in_choice)
					new = chosen(in_choice[sym]) == sym ? "y" : "n"
				else if (sym in user_val)
					new = user_val[sym]
			} else if (type[sym] == "bool")
				written[sym] = 0
			if (sym in forced)
				new = "y"
			if (new != val[sym]) {
				val[sym] = new
				changed = 1
			}
		}
		if (!changed)
			return
	}
	die("Kconfig: recursive dependency detected!")
}

# What is selected must have what it depends on. Nothing is done about it but to tell,
# whenever a configuration is written
function check_selects(    i, sym) {
	for (i = 1; i <= nselects; i++) {
		sym = sel_to[i]
		if (val[sel_from[i]] != "y" || !holds(sel_cond[i]) || !holds(node_dep[sel_node[i]]))
			continue
		if (!is_visible(sym) && prompts[sym] != "")
			printf "\nWARNING: unmet direct dependencies detected for %s\n" \
				"  Depends on [n]: %s\n  Selected by [y]:\n  - %s [=y]\n", sym, \
				node_dep[prompts[sym] + 0], sel_from[i] > "/dev/stderr"
	}
}

# Replace a file only when its text changed, for the sake of what depends on it
function replace(path, text,    old, line, sep) {
	while ((getline line < path) > 0)
		old = old line "\n"
	close(path)
	if (old == text)
		return 0
	printf "%s", text > path
	close(path)
	return 1
}

function write_config(    i, sym, text) {
	text = "#\n# Automatically generated file; DO NOT EDIT.\n# U-Boot Sample Configuration\n#\n"
	for (i = 1; i <= nsyms; i++) {
		sym = order[i]
		if (type[sym] == "bool" && val[sym] == "n") {
			if (written[sym])
				text = text "# CONFIG_" sym " is not set\n"
		} else if (type[sym] == "bool" || (written[sym] && val[sym] != ""))
			text = text "CONFIG_" sym "=" val[sym] "\n"
	}
	if (sync)
		replace(".config", text)
	else {
		printf "%s", text > ".config"
		close(".config")
	}
}

function write_auto(    i, sym, conf, head, deps) {
	system("mkdir -p include/config include/generated")
	conf = "#\n# Automatically generated file; DO NOT EDIT.\n#\n"
	head = "/*\n *\n * Automatically generated file; DO NOT EDIT.\n *\n */\n"
	for (i = 1; i <= nsyms; i++) {
		sym = order[i]
		if (type[sym] == "bool" ? val[sym] == "n" : (!written[sym] || val[sym] == ""))
			continue
		conf = conf "CONFIG_" sym "=" val[sym] "\n"
		head = head "#define CONFIG_" sym " " (type[sym] == "bool" ? "1" : val[sym]) "\n"
	}
	replace("include/generated/autoconf.h", head)
	for (i = 1; i <= nfiles; i++)
		deps = deps " \\\n\t" srctree "/" files[i]
	replace("include/config/auto.conf.cmd", "deps_config :=" deps \
		"\n\ninclude/config/auto.conf: $(deps_config)\n\n$(deps_config): ;\n")
	printf "%s", conf > "include/config/auto.conf"
	close("include/config/auto.conf")
}

function write_saved(    i, sym, text) {
	for (i = 1; i <= nsyms; i++) {
		sym = order[i]
		if (!is_visible(sym) || val[sym] == default_of(sym) && !(sym in in_choice))
			continue
		if (val[sym] != "n")
			text = text "CONFIG_" sym "=" val[sym] "\n"
		else if (!(sym in in_choice))
			text = text "# CONFIG_" sym " is not set\n"
	}
	printf "%s", text > save
	close(save)
}

BEGIN {
	parse("Kconfig", "")
	read_user(user)
	evaluate()
	check_selects()
	if (save != "")
		write_saved()
	else {
		write_config()
		if (sync)
			write_auto()
		else if (!silent)
			print "#\n# configuration written to .config\n#"
	}
	exit failed
}
