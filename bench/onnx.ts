/**
 * The smallest ONNX writer that does: a model of one MatMul, encoded as protobuf by hand (field numbers from
 * onnx/onnx.proto). `weights` makes the right operand a constant, which lets the runtime pack it once.
 */

type Field = number[] | Uint8Array;

function varint(value: number): number[] {
  const out: number[] = [];
  for (; value > 127; value = Math.floor(value / 128)) out.push((value % 128) | 128);
  return [...out, value];
}

const integer = (field: number, value: number): number[] => [...varint(field * 8), ...varint(value)];

function bytes(field: number, content: Field): Uint8Array {
  const head = [...varint(field * 8 + 2), ...varint(content.length)];
  const out = new Uint8Array(head.length + content.length);
  out.set(head);
  out.set(content, head.length);
  return out;
}

const text = (field: number, value: string): Uint8Array => bytes(field, new TextEncoder().encode(value));

function message(...fields: Field[]): Uint8Array {
  const out = new Uint8Array(fields.reduce((sum, f) => sum + f.length, 0));
  let at = 0;
  for (const f of fields) {
    out.set(f, at);
    at += f.length;
  }
  return out;
}

const FLOAT = 1;

/** ValueInfoProto of an f32 tensor. */
function value(name: string, dims: number[]): Uint8Array {
  const shape = message(...dims.map((d) => bytes(1, integer(1, d))));
  const tensor = message(integer(1, FLOAT), bytes(2, shape));
  return message(text(1, name), bytes(2, bytes(1, tensor)));
}

/** ModelProto: C[M,N] = A[M,K]·B[K,N]. */
export function matmulModel(M: number, N: number, K: number, weights?: Float32Array): Uint8Array {
  const node = message(text(1, 'A'), text(1, 'B'), text(2, 'C'), text(4, 'MatMul'));
  const right = weights
    ? bytes(
        5,
        message(
          integer(1, K),
          integer(1, N),
          integer(2, FLOAT),
          text(8, 'B'),
          bytes(9, new Uint8Array(weights.buffer, weights.byteOffset, weights.byteLength)),
        ),
      )
    : bytes(11, value('B', [K, N]));
  const graph = message(
    bytes(1, node),
    text(2, 'matmul'),
    right,
    bytes(11, value('A', [M, K])),
    bytes(12, value('C', [M, N])),
  );
  return message(integer(1, 8), bytes(7, graph), bytes(8, message(text(1, ''), integer(2, 13))));
}
