// Parses a Power Query file with its vendor's own parser. Prints what is wrong with it, or nothing.
const fs = require("fs");
const PQP = require("@microsoft/powerquery-parser");

const text = fs.readFileSync(process.argv[2], "utf8");
PQP.TaskUtils.tryLexParse(PQP.DefaultSettings, text).then((task) => {
  console.log(JSON.stringify({ parsed: PQP.TaskUtils.isParseStageOk(task), error: task.error ? String(task.error.message) : "" }));
});
