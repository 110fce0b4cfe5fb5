/** What the scripts use of Office Scripts' own declarations, which no package offers. */
declare namespace ExcelScript {
  interface Workbook {
    getSelectedRange(): Range;
  }
  interface Range {
    getColumn(column: number): Range;
    getUsedRange(valuesOnly?: boolean): Range | undefined;
    getOffsetRange(rowOffset: number, columnOffset: number): Range;
    getCell(row: number, column: number): Range;
    getValues(): (string | number | boolean)[][];
    setValue(value: string | number | boolean): void;
    getAddress(): string;
  }
}
