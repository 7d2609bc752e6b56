import { isAlias, isMap, isScalar, isSeq, Lexer, type ParsedNode, parseDocument } from 'yaml'
import { defaultLimits, type Limits, type Places, type Problem, protoMessage, type Reading } from './source.ts'

/*
 * YAML 1.2, core schema, one document whose top is a mapping. The library's own conversion to JavaScript is not used:
 * it compares each key with all earlier ones (hours for a hostile megabyte), expands aliases before it counts them,
 * and loses the text of scalars. Here the tree is walked once, under the same limits as JSON.
 */

export function readYaml(text: string, limits: Limits = defaultLimits): Reading {
  const hostile = tooMuch(text, limits)
  if (hostile !== undefined) return hostile
  let document: ReturnType<typeof parseDocument<ParsedNode, true>>
  // The library makes an error object for each of what may be half a million faults; their stacks would cost seconds.
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  try {
    document = parseDocument<ParsedNode, true>(text, {
      version: '1.2',
      schema: 'core',
      uniqueKeys: false, // quadratic there, linear here
      prettyErrors: false,
      logLevel: 'error', // 'silent' would hide that there is a second document
      stringKeys: false,
    })
  } catch (error) {
    return {
      state: 'invalid',
      offset: 0,
      message: `The YAML cannot be read: ${sentence(reason({ code: '', message: (error as Error).message }))}`,
    }
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
  const first = document.errors[0]
  const contents = document.contents as ParsedNode | null
  if (first === undefined && (contents === null || (isScalar(contents) && contents.value === null)))
    return { state: 'incomplete', offset: text.length, message: 'The file is empty.' }
  const walked = contents !== null && isMap(contents) ? walk(contents as ParsedNode, text, limits) : undefined
  if (first !== undefined) {
    const message = `The YAML cannot be read: ${sentence(reason(first))}`
    // An open quote or bracket is reported at the end of the text: the rest may still be on its way.
    if (first.pos[0] >= text.trimEnd().length && first.code !== 'MULTIPLE_DOCS')
      return { state: 'incomplete', offset: text.length, message }
    return { state: 'invalid', offset: first.pos[0], message, partial: walked?.value }
  }
  if (walked === undefined)
    return {
      state: 'invalid',
      offset: contents!.range[0],
      message: 'The top of a manifest must be a mapping of keys to values.',
    }
  return { state: 'complete', ...walked }
}

/** Refuses what would cost the parser time or stack before it is called: a first pass over the tokens alone. */
function tooMuch(text: string, limits: Limits): Reading | undefined {
  let tokens = 0
  let flow = 0
  let onLine = 0
  let offset = 0
  for (const token of new Lexer().lex(text)) {
    tokens++
    if (token === '[' || token === '{') flow++
    else if (token === ']' || token === '}') flow--
    else if (token === '-' || token === '?') onLine++
    else if (token.startsWith('\n') || token.startsWith('\r')) onLine = 0
    if (flow > limits.depth || onLine > limits.depth)
      return {
        state: 'invalid',
        offset,
        message: `Nested more than ${limits.depth} levels deep; no manifest needs that.`,
      }
    if (tokens > limits.values * 8)
      return { state: 'invalid', offset, message: `The file holds more than ${limits.values} values.` }
    // The lexer adds marks of its own (U+FEFF, U+0002, U+0018, U+001F) that stand for nothing in the text.
    if (!(token.length === 1 && '\u{FEFF}\u0002\u0018\u001f'.includes(token))) offset += token.length
  }
  return undefined
}

function walk(contents: ParsedNode, text: string, limits: Limits) {
  const problems: Problem[] = []
  const places: Places = new WeakMap()
  const written = new WeakMap<object, Map<string | number, string>>()
  const anchors = new Map<string, ParsedNode>()
  let values = 0
  let full = false

  const say = (offset: number, path: (string | number)[], message: string, severity: 'error' | 'warning' = 'error') => {
    if (problems.length < 100) problems.push({ offset, path, message, severity })
  }

  const convert = (node: ParsedNode | null, path: (string | number)[]): { value: unknown; text?: string } => {
    if (node === null || full) return { value: null }
    if (++values > limits.values) {
      full = true
      say(node.range[0], [], `The file holds more than ${limits.values} values (aliases expanded).`)
      return { value: null }
    }
    if (path.length > limits.depth) {
      full = true
      say(node.range[0], [], `Nested more than ${limits.depth} levels deep; no manifest needs that.`)
      return { value: null }
    }
    if (isAlias(node)) {
      const target = anchors.get(node.source)
      if (target !== undefined) return convert(target, path)
      say(node.range[0], path, `The alias *${node.source} names no anchor before it.`)
      return { value: null }
    }
    if ('anchor' in node && node.anchor !== undefined) anchors.set(node.anchor, node)
    if (isScalar(node)) {
      const { value } = node
      const source = text.slice(node.range[0], node.range[1])
      if (typeof value === 'number' && !Number.isFinite(value)) {
        say(node.range[0], path, `The number ${source.slice(0, 40)} is not a finite number.`)
        return { value: null }
      }
      if (typeof value === 'number' && Number.isInteger(value) && !Number.isSafeInteger(value))
        say(
          node.range[0],
          path,
          `The number ${source.slice(0, 40)} is too large to be kept exactly (over 2^53).`,
          'warning',
        )
      if (typeof value === 'number' || typeof value === 'boolean') return { value, text: source }
      if (typeof value === 'string' || value === null) return { value }
      say(node.range[0], path, 'Only text, numbers, true, false and null can stand here.')
      return { value: null }
    }
    if (isSeq(node)) {
      const list: unknown[] = []
      const at = new Map<string | number, readonly [number, number]>()
      const texts = new Map<string | number, string>()
      places.set(list, at)
      written.set(list, texts)
      for (const item of node.items as (ParsedNode | null)[]) {
        if (full) break
        const i = list.length
        const offset = item?.range?.[0] ?? node.range[0]
        at.set(i, [offset, offset])
        const got = convert(item, [...path, i])
        if (got.text !== undefined) texts.set(i, got.text)
        list.push(got.value)
      }
      return { value: list }
    }
    if (isMap(node)) {
      const object: Record<string, unknown> = {}
      const at = new Map<string | number, readonly [number, number]>()
      const texts = new Map<string | number, string>()
      places.set(object, at)
      written.set(object, texts)
      for (const pair of node.items) {
        if (full) break
        const keyNode = pair.key as ParsedNode
        const valueNode = pair.value as ParsedNode | null
        const keyAt = keyNode?.range?.[0] ?? node.range[0]
        if (!isScalar(keyNode)) {
          say(keyAt, path, 'A key must be plain text.')
          continue
        }
        if (keyNode.anchor !== undefined) anchors.set(keyNode.anchor, keyNode as ParsedNode)
        const key = typeof keyNode.value === 'string' ? keyNode.value : text.slice(keyAt, keyNode.range![1])
        if (key === '__proto__') {
          say(keyAt, path, protoMessage)
          continue
        }
        if (key === '<<') say(keyAt, path, 'The YAML merge key "<<" is not supported: write the fields out.')
        if (at.has(key)) {
          say(
            keyAt,
            [...path, key],
            `The key ${JSON.stringify(key)} stands twice in one mapping; only one can be meant.`,
          )
          continue
        }
        const offset = valueNode?.range?.[0] ?? keyAt
        at.set(key, [keyAt, offset])
        const got = convert(valueNode, [...path, key])
        if (got.text !== undefined) texts.set(key, got.text)
        object[key] = got.value
      }
      return { value: object }
    }
    return { value: null }
  }
  const { value } = convert(contents, [])
  return { value: value as Record<string, unknown>, places, problems, written }
}

function reason(error: { code: string; message: string }): string {
  if (error.code === 'MULTIPLE_DOCS') return 'the file holds more than one document'
  return error.message.includes('call stack') ? 'it is nested too deeply' : error.message
}

const sentence = (s: string) => (s.endsWith('.') ? s : `${s}.`)
