import type { ByteSource } from './formats/source.ts'
import { fileSource } from './source.ts'
import { openSibling, type OpenedFile } from './walk.ts'

/** Where an image lies: a file, or a part of one (a member of an OVA). */
export interface ImageWindow {
  file: OpenedFile
  /** bytes */
  offset: number
  size: number
  /** true: the whole file */
  whole: boolean
  /** for messages */
  label: string
  source: ByteSource
  /** opens what a descriptor refers to by a plain name: a file in the same folder, or a member of the same archive */
  sibling(name: string): Promise<ImageWindow>
}

/** The whole of an open file. Siblings are files in its folder; `admit` is told of each as soon as it is open, checks it and MUST see that it is closed. */
export function wholeFile(file: OpenedFile, admit: (f: OpenedFile) => Promise<void>): ImageWindow {
  return {
    file,
    offset: 0,
    size: file.stat.size,
    whole: true,
    label: file.path,
    source: fileSource(file.handle, file.stat.size),
    sibling: async (name) => {
      const next = await openSibling(file, name)
      await admit(next)
      return wholeFile(next, admit)
    },
  }
}

/** The bytes as they were given: of a window that is a whole unpacked file, the compressed ones. */
export function givenBytes(w: ImageWindow): { file: OpenedFile; offset: number; size: number } {
  return w.whole && w.file.from ? w.file.from : w
}

/**
 * Numbers by which a later attempt knows that it reads the same bytes, through whatever files they were unpacked. Not the
 * device number: it differs between hosts of one NFS tree.
 */
export function sourceIdentity(w: { file: OpenedFile; offset: number; size: number }): number[] {
  const { from, stat } = w.file
  return [...(from ? sourceIdentity(from) : [stat.ino, stat.size, stat.mtimeMs]), w.offset, w.size]
}
