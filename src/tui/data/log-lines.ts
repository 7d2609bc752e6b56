/** The last lines of a log, as they come, each with the stream it came from. */
import { StringDecoder } from 'node:string_decoder'
import type { LogPiece, LogStream } from '../../process/log-format.ts'
import { harmless } from '../../text/width.ts'

export interface LogLine {
  text: string
  stream: LogStream
  /** RFC 3339; of what vmspool itself said */
  at?: string
}

export interface LogLines {
  push(pieces: readonly LogPiece[]): void
  /** a sentence about the log itself, such as that parts of it are missing */
  note(sentence: string): void
  length(): number
  line(i: number): LogLine
  /** how many lines went by that are kept no more */
  dropped(): number
}

/** What is kept of a line, in characters, and of all lines. */
const mostCharacters = 16_384
const mostOfAll = 16 * 1024 * 1024

/** What an earlier version of the agent wrote between the lines of a log without marks. */
const old = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z) vmspool: /

interface Open {
  line: LogLine
  raw: string
  decoder: StringDecoder
}

export function logLines(most: number): LogLines {
  let lines: LogLine[] = []
  /** the first so many of `lines` are gone */
  let gone = 0
  let dropped = 0
  let characters = 0
  /** the line of a stream that goes on with its next piece */
  const open = new Map<string, Open>()

  function trim(): void {
    while (lines.length - gone > most || (characters > mostOfAll && lines.length - gone > 1)) {
      characters -= lines[gone]!.text.length
      gone += 1
      dropped += 1
    }
    if (gone > most) {
      lines = lines.slice(gone)
      gone = 0
    }
  }

  function begin(p: LogPiece): Open {
    const line: LogLine = { text: '', stream: p.stream ?? 'stdout' }
    if (p.stream === 'agent') line.at = p.time
    lines.push(line)
    return { line, raw: '', decoder: new StringDecoder('utf8') }
  }

  function add(p: LogPiece): void {
    const key = p.stream ?? ''
    const now = open.get(key) ?? begin(p)
    // What is cut off in the end need not be kept meanwhile; a little more, so that it is seen that it was cut.
    if (now.raw.length <= mostCharacters) now.raw += now.decoder.write(p.bytes.subarray(0, 2 * mostCharacters))
    if (p.newline) now.raw += now.decoder.end()
    const words = p.stream === undefined ? old.exec(now.raw) : null
    if (words !== null) Object.assign(now.line, { stream: 'agent', at: words[1] })
    characters -= now.line.text.length
    now.line.text = shown(now.raw.slice(words?.[0].length ?? 0))
    characters += now.line.text.length
    if (p.newline) open.delete(key)
    else open.set(key, now)
  }

  return {
    push(pieces) {
      for (const p of pieces) add(p)
      trim()
    },
    note(sentence) {
      open.clear()
      lines.push({ text: harmless(sentence), stream: 'agent' })
      characters += sentence.length
      trim()
    },
    length: () => lines.length - gone,
    line: (i) => lines[gone + i]!,
    dropped: () => dropped,
  }
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: ECMA-48 control sequences (CSI, OSC, others) are what this is about
const sequences = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|[@-Z\\-_])/g

/** What a program wrote to a terminal, for ours: colours and movements left out, what was overwritten in a line too, tabs as blanks. */
export function shown(raw: string): string {
  let text = raw.length > mostCharacters ? `${raw.slice(0, mostCharacters)} (cut here)` : raw
  if (/^[ -~]*$/.test(text)) return text
  text = text.replace(sequences, '').replace(/\r+$/, '')
  text = text.slice(text.lastIndexOf('\r') + 1)
  if (text.includes('\t')) text = expanded(text)
  return harmless(text)
}

function expanded(text: string): string {
  let out = ''
  for (const part of text.split(/(\t)/)) out += part === '\t' ? ' '.repeat(8 - (out.length % 8)) : part
  return out
}
