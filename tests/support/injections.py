"""514 strings that have a special meaning in SQL, a shell, a header, a template or a log."""

from itertools import product

_QUOTES = ("'", '"', "`", "''", "\\'", "%27", "\u2019", "\uff07", "')", "'))")
_CLAUSES = (
    "; DROP TABLE accounts",
    "; UPDATE accounts SET balance_nanos = 9223372036854775807",
    "; DELETE FROM transfers",
    "; INSERT INTO keys VALUES ('x', 3, '', '', x'00', 0, NULL)",
    "; PRAGMA journal_mode = OFF",
    "; PRAGMA writable_schema = ON",
    "; ATTACH DATABASE '/tmp/x.db' AS x",
    "; VACUUM INTO '/tmp/x.db'",
    "; COMMIT; BEGIN",
    "; ROLLBACK",
    "; SELECT load_extension('x')",
    " OR 1=1",
    " OR '1'='1",
    " OR ''='",
    " AND 1=0",
    " UNION SELECT sha256 FROM keys",
    " UNION ALL SELECT NULL, NULL, NULL, NULL, NULL",
    " GROUP BY id HAVING 1=1",
    " ORDER BY 100",
    " LIMIT -1 OFFSET 0",
    " IS NOT NULL",
    " LIKE '%",
    " GLOB '*",
    " || (SELECT prefix FROM keys LIMIT 1) || '",
)
_ENDS = ("--", " -- -")
_OTHERS = (
    "?", "?1", ":name", "@name", "$name", "%s", "%(name)s", "{}", "{0}", "{0.__class__}", "{{7*7}}", "${7*7}", "#{7*7}", "<%= 7*7 %>",
    "$(id)", "`id`", "; id", "| id", "&& id", "\n", "\t", "a\nb", "*", "%", "_", "\\", "/*", "*/", "--", "#", "''", "null", "NULL", "0",
)  # fmt: skip

INJECTIONS = tuple(dict.fromkeys([quote + clause + end for quote, clause, end in product(_QUOTES, _CLAUSES, _ENDS)] + [*_OTHERS]))[:514]
