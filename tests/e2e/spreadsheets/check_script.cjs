// Type-checks an Office Script as Office does, and finds each `any` in it, said or inferred. Prints a list in JSON.
const ts = require("typescript");

const [script, declarations] = process.argv.slice(2);
const program = ts.createProgram([script, declarations], {
  strict: true,
  noEmit: true,
  types: [],
  target: ts.ScriptTarget.ES2019,
  lib: ["lib.es2019.d.ts", "lib.dom.d.ts"],
});
const checker = program.getTypeChecker();
const source = program.getSourceFile(script);
const faults = ts
  .getPreEmitDiagnostics(program)
  .map((fault) => ts.flattenDiagnosticMessageText(fault.messageText, "\n") + ` at ${fault.start}`);

function look(node) {
  if (node.kind === ts.SyntaxKind.AnyKeyword) {
    faults.push(`any is written at ${node.pos}`);
  }
  if (ts.isVariableDeclaration(node) || ts.isParameter(node) || ts.isPropertySignature(node)) {
    if (checker.getTypeAtLocation(node).flags & ts.TypeFlags.Any) {
      faults.push(`${node.name.getText()} is of the type any`);
    }
  }
  if (ts.isFunctionLike(node) && node.body) {
    const returned = checker.getSignatureFromDeclaration(node).getReturnType();
    if (returned.flags & ts.TypeFlags.Any) {
      faults.push(`a function returns any at ${node.pos}`);
    }
  }
  ts.forEachChild(node, look);
}

look(source);
console.log(JSON.stringify({ version: ts.version, faults: faults }));
