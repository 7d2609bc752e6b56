/** Writing XML: a tree of elements, and an escaping that no text can break out of. */

export interface Element {
  name: string
  attributes: Readonly<Record<string, string | number>>
  children: readonly (Element | string)[]
}

type Child = Element | string | undefined | false

/** An element; children that are undefined or false are left out, so that a condition can stand where an element may be. */
export function element(
  name: string,
  attributes: Readonly<Record<string, string | number | undefined>> = {},
  ...children: readonly (Child | readonly Child[])[]
): Element {
  const set = Object.entries(attributes).filter((a): a is [string, string | number] => a[1] !== undefined)
  const flat = (children.flat() as Child[]).filter((c) => c !== undefined && c !== false)
  return { name, attributes: Object.fromEntries(set), children: flat as (Element | string)[] }
}

/** What may stand in an XML 1.0 document (section 2.2, Char); surrogates that are halves of nothing may not. */
const ALLOWED = /[\t\n\r\u{20}-\u{d7ff}\u{e000}-\u{fffd}\u{10000}-\u{10ffff}]/u

/** Can this text be written as XML without a loss? */
export function writable(text: string): boolean {
  for (const c of text) if (!ALLOWED.test(c)) return false
  return true
}

const ENTITIES: Record<string, string> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&apos;',
  // a parser turns them into spaces in attributes, and CR into LF everywhere, unless they are written so
  '\t': '&#9;',
  '\n': '&#10;',
  '\r': '&#13;',
}

/** Text for an attribute or an element. What XML cannot hold becomes U+FFFD, so that nothing vanishes unseen. */
export function escapeXml(text: string): string {
  let out = ''
  for (const c of text) out += ENTITIES[c] ?? (ALLOWED.test(c) ? c : '\ufffd')
  return out
}

/** The tree as text, two spaces for each level, a newline at the end. */
export function printXml(e: Element, indent = ''): string {
  const attributes = Object.entries(e.attributes)
    .map(([k, v]) => ` ${k}="${escapeXml(String(v))}"`)
    .join('')
  const open = `${indent}<${e.name}${attributes}`
  if (e.children.length === 0) return `${open}/>\n`
  if (e.children.every((c) => typeof c === 'string'))
    return `${open}>${e.children.map((c) => escapeXml(c)).join('')}</${e.name}>\n`
  const inner = e.children.map((c) =>
    typeof c === 'string' ? `${indent}  ${escapeXml(c)}\n` : printXml(c, `${indent}  `),
  )
  return `${open}>\n${inner.join('')}${indent}</${e.name}>\n`
}
